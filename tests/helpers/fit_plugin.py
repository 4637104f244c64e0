"""A stage of a plugin file, for tests of several processes: least squares of an energy, and the head of its recipe."""

FIT = '''
"""A stage that fits an energy, and the optimiser it needs."""

from genfw.plugins.component import Component
from genfw.plugins.hookspecs import hookimpl
from genfw.interfaces import OptimizerFactory, Stage


@hookimpl
def genfw_components():
    return [Component("stage", "fit", f"{__name__}:Fit", "least squares of an energy")]


class Fit(Stage):
    """Fit the energy to the squared length of its points, plus ``noise`` times normal numbers."""

    def __init__(
        self,
        model: "Model",
        steps: int,
        batch: int,
        optimizer: OptimizerFactory,
        noise: float = 0.0,
        die_at: int = -1,
    ) -> None:
        self.model, self.steps, self.batch, self.optimizer = model, steps, batch, optimizer
        self.noise, self.die_at = noise, die_at

    def setup(self) -> None:
        from genfw.training.updater import Updater

        self.updater = Updater([self.model.energies], self.optimizer, self.run, self.steps)
        self.register("updater", self.updater)

    def step(self, batch, step):
        import torch

        if step == self.die_at and self.run.fabric.global_rank == 1:
            raise RuntimeError("the second process gives up")
        noise = self.noise * torch.randn(len(batch.x), generator=self.run.generator)
        loss = (self.model.data_energy(batch.x) - batch.x.square().sum(1) + noise).square().mean()
        return {"loss": loss.detach(), "gradient": self.updater.update(loss, step)}


from genfw.models.model import Model  # noqa: E402
'''

RECIPE = """
genfw: 1
name: fit
plugins: [./fit.py]
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [4]}
energy: {use: mlp, on: data, hidden: [16]}
"""


def write(folder, stage, rest, plugin=""):
    """Write ``fit.py`` and ``fit.yaml`` into a folder; the recipe's path.

    Arguments:
        folder: The folder.
        stage: The stage's further settings, such as ``steps: 12``.
        rest: Further sections of the recipe.
        plugin: Further lines of the plugin file.
    """
    (folder / "fit.py").write_text(FIT + plugin)
    recipe = folder / "fit.yaml"
    recipe.write_text(f"{RECIPE}train: [{{use: fit, batch: 16, {stage}}}]\n{rest}")
    return recipe

"""Small components for the tests of recipes, and a registry of them."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genfw.errors import AbsentDataError
from genfw.evaluation.metric import Metric
from genfw.interfaces import Amortizer, Dataset, Decoder, Encoder, Energy, Posterior, Prior, Sampler, Split, Start
from genfw.interfaces.likelihood import Gaussian, Likelihood
from genfw.interfaces.values import Latent, NoiseLayout, Size
from genfw.models.model import Model
from genfw.plugins.component import Component, Settings
from genfw.plugins.registry import Registry
from genfw.training.stage import Stage
from genfw.training.synthetic import Synthetic
from genfw.training.tracker import Tracker


class ToyData(Dataset):
    """Rows of zeros.

    Arguments:
        size: Numbers in a row.
        root: Where it would be.
        present: Whether the files are there.
    """

    def __init__(self, size: int = 2, root: Path = Path("data"), present: bool = True) -> None:
        self.size, self.root, self.present = size, root, present

    @property
    def data_shape(self) -> Size:
        return (self.size,)

    def split(self, name: str) -> Split:
        if not self.present:
            raise AbsentDataError(f"nothing at {self.root}")
        return Synthetic(self.data_shape).split(name)


class ToyPrior(Prior):
    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self.dim = dim

    @property
    def noise_shapes(self) -> tuple[Size, ...]:
        return ((self.dim,),)

    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        return Latent((noise[0] * temperature,))

    def log_prob(self, latent: Latent) -> Tensor:
        return -0.5 * latent.flat().square().sum(1)


class ToyDecoder(Decoder):
    def __init__(self, data_shape: Size, latent_layout: NoiseLayout, width: int = 8, sigma: float = 0.1) -> None:
        super().__init__()
        self.shape, self.width, self.sigma = data_shape, width, sigma
        self.net = nn.Linear(latent_layout.size, data_shape[0])

    @property
    def noise_shape(self) -> Size | None:
        return self.shape

    def forward(self, latent: Latent) -> Likelihood:
        mean = self.net(latent.flat())
        return Gaussian(mean, torch.full_like(mean, self.sigma))


class ToyEncoder(Encoder):
    def __init__(self, prior: Prior, data_shape: Size) -> None:
        super().__init__()
        self.seen, self.net = [prior], nn.Linear(data_shape[0], prior.noise_shapes[0][0])

    def forward(self, x: Tensor, **_: Any) -> Posterior:  # pragma: no cover
        raise AssertionError("not called")


class ToyEnergy(Energy):
    """An energy.

    Arguments:
        on: What it reads.
        width: Width of the
            hidden layer.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"width": 4, "hidden": (3,)}

    def __init__(
        self,
        data_shape: Size | None = None,
        latent_layout: NoiseLayout | None = None,
        noise_layout: NoiseLayout | None = None,
        on: Literal["data", "latent"] = "data",
        width: int = 64,
        hidden: tuple[int, ...] = (200, 200),
        scale: float = 1.0,
        label: str = "",
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.on, self.width, self.hidden, self.scale, self.label, self.exact = on, width, hidden, scale, label, exact
        self.layouts = (data_shape, latent_layout, noise_layout)
        self.net = nn.Linear(2, 1)

    def forward(self, v: Tensor) -> Tensor:
        return self.scale * self.net(v)[:, 0]


class WrappedEnergy(Energy):
    def __init__(self, inner: Energy) -> None:
        super().__init__()
        self.inner, self.on = inner, inner.on

    def forward(self, v: Tensor) -> Tensor:
        return self.inner(v)


class ToyAmortizer(Amortizer):
    def __init__(self, noise_layout: NoiseLayout, encoder: Encoder | None = None, energy: Energy | None = None) -> None:
        super().__init__()
        self.size, self.encoder, self.held = noise_layout.size, encoder, [energy]

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.size, generator=generator)

    def sample_given(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.sample(len(x), generator=generator)

    def loss(self, position: Tensor, x: Tensor | None, *, generator: torch.Generator) -> Tensor:
        return position.sum(1)


class ToySampler(Sampler):
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    def __init__(self, step_size: float, steps: int = 30) -> None:
        self.step_size, self.steps = step_size, steps

    def init(self, target: Any, position: Tensor, generator: torch.Generator) -> Any:
        return position

    def step(self, target: Any, state: Any, generator: torch.Generator) -> Any:
        return state


class ToyStart(Start):
    def __init__(self, probability: float | tuple[float, float] = 1.0, source: Start | None = None) -> None:
        self.probability, self.source = probability, source

    def draw(self, request: Any) -> Tensor:
        return torch.zeros(request.count, 1)


class ToyChain(Settings):
    def __init__(self, sampler: Sampler, start: Start | list[Start], count: int | None = None) -> None:
        self.sampler, self.start, self.count = sampler, start, count


class ToyStage(Stage):
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "batch": 8}

    def __init__(
        self,
        model: Model,
        generator: torch.Generator,
        steps: int,
        batch: int = 128,
        chain: ToyChain | None = None,
        energy: Energy | None = None,
        weights: dict[str, float] | None = None,
        device_count: int | Literal["auto"] = 1,
        extra: Any = None,
    ) -> None:
        self.model, self.generator, self.steps, self.batch = model, generator, steps, batch
        self.chain, self.energy, self.weights = chain, energy, weights
        self.device_count, self.extra = device_count, extra

    def step(self, batch: Any, step: int) -> Mapping[str, Tensor]:
        return {}


class ToyBins(Settings):
    smoke: ClassVar[Mapping[str, Any]] = {"edges": 2}

    def __init__(self, edges: int = 10, closed: bool = True) -> None:
        self.edges, self.closed = edges, closed


BINS = ToyBins()


class ToyMetric(Metric):
    def __init__(self, model: Model, count: int = 100, bins: ToyBins = BINS) -> None:
        self.model, self.count, self.bins = model, count, bins

    def compute(self, evaluation: Any) -> Sequence[Any]:
        return []


class ToyTracker(Tracker):
    def log(self, row: Mapping[str, Any]) -> None:
        pass


class Loose(Energy):
    def __init__(self, **options: Any) -> None:
        super().__init__()

    def forward(self, v: Tensor) -> Tensor:
        return v.flatten(1).sum(1)


class Unannotated(Energy):
    def __init__(self, width=3) -> None:
        super().__init__()

    def forward(self, v: Tensor) -> Tensor:
        return v.flatten(1).sum(1)


class Unfinished(Energy, abc.ABC):
    pass


_NAMES = {
    "dataset": {"toy": ToyData},
    "prior": {"toy": ToyPrior},
    "decoder": {"toy": ToyDecoder},
    "encoder": {"toy": ToyEncoder},
    "energy": {
        "mlp": ToyEnergy,
        "wrapped": WrappedEnergy,
        "loose": Loose,
        "unannotated": Unannotated,
        "unfinished": Unfinished,
    },
    "amortizer": {"toy": ToyAmortizer},
    "sampler": {"langevin": ToySampler},
    "start": {"noise": ToyStart},
    "stage": {"fit": ToyStage},
    "metric": {"count": ToyMetric},
    "tracker": {"quiet": ToyTracker},
}


def component(kind: str, name: str, cls: type | str, **given: Any) -> Component:
    target = cls if isinstance(cls, str) else f"{cls.__module__}:{cls.__name__}"
    facts = {"provider": "toys", "plugin": "toys", "version": "1.0"} | given
    return Component(kind, name, target, f"the {name}", **facts)


def toys(*more: Component) -> Registry:
    """A registry of this file's components, without any plugin."""
    own = [component(kind, name, cls) for kind, names in _NAMES.items() for name, cls in names.items()]
    return Registry([*own, component("energy", "lost", "no_such_module:Lost"), *more])


RECIPE = """\
genfw: 1
name: toy
seed: 3
vars: {dim: 4, rate: 1e-3}
data: {use: toy, size: 2}
prior: {use: toy, dim: "${vars.dim}"}
decoder: {use: toy, width: 16}
encoder: {use: toy}
energy: {use: mlp, on: latent, hidden: [5, 5]}
amortizer: {use: toy}
train:
  - use: fit
    steps: 1_000
    chain: {sampler: {use: langevin, step_size: 5e-3}, start: {use: noise}}
  - {use: fit, steps: 10, weights: {kl: 1, gap: 0.5}, energy: {ref: energy}}
sample: {count: 50, sampler: {use: langevin, step_size: 1}, start: [{use: noise}, {use: noise, probability: [0, 0.5]}]}
evaluate: [{use: count}]
trackers: [{use: quiet}]
paper: {id: TOY, expect: {nll: -1.5}}
"""

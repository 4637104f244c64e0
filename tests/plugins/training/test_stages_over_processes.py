"""Stages in two processes: what lasts is the same in both, bit for bit, whatever chance does in each."""

import pytest
import torch

from genfw.engine import run as engine
from genfw.runs.checkpoints import Checkpoints

ENGINE = "engine: {accelerator: cpu, devices: 2, log_every: 2, checkpoint_every: 100, snapshot_every: 2}"

#: Batch norms in prior, decoder, encoder and energy. Starts are chosen by chance in each process; one of them puts
#: batch norms into training mode, and so does the snapshot that the first process draws alone.
NVAE = f"""
genfw: 1
name: nvae
data: {{use: digits, limit: 256}}
prior: {{use: nvae, channels: 4, scales: 2, groups: 1, latent_channels: 2, cells: 1, blocks: 1}}
decoder: {{use: nvae, likelihood: gaussian, postprocess_cells: 1}}
encoder: {{use: nvae, channels: 4, cells: 1, preprocess_cells: 1}}
energy: {{use: resnet, blocks: [down 4], norm: spectral, batch_norm: true, spectral_iterations: 0}}
vars:
  adam: {{use: adam, lr: 1e-2}}
  cold: {{use: low-temperature, draws: 2, batch: 4}}
train:
  - {{use: elbo, steps: 5, batch: 8, kl_warmup: 4, balance: true, average: 0.9, optimizer: "${{vars.adam}}"}}
  - use: contrastive
    steps: 5
    batch: 4
    optimizer: "${{vars.adam}}"
    generator_optimizer: "${{vars.adam}}"
    negatives:
      sampler: {{use: langevin, step_size: 1e-3, steps: 2}}
      start: {{use: mixture, starts: [{{use: replay, size: 16}}, "${{vars.cold}}"], weights: [2, 1]}}
  - {{use: wgan, steps: 3, batch: 8, generator_every: 2, gradient_penalty: 1.0, optimizer: "${{vars.adam}}",
     generator_optimizer: "${{vars.adam}}"}}
  - {{use: readjust-batch-norm, temperature: 0.7, steps: 3, batch: 8}}
sample: {{count: 4, batch: 4, start: "${{vars.cold}}"}}
{ENGINE}
"""

GAN = f"""
genfw: 1
name: gan
data: {{use: digits, limit: 64}}
prior: {{use: stylegan, width: 4}}
decoder: {{use: stylegan, channels_base: 32, channels_max: 4, mapping_layers: 2, sigma: 0.1}}
train:
  - use: gan
    steps: 4
    batch: 8
    optimizer: {{use: adam, lr: 2e-3}}
    discriminator_optimizer: {{use: adam, lr: 2e-3}}
    channels_base: 32
    channels_max: 4
    r1_every: 2
    average: 0.9
sample: {{count: 4}}
{ENGINE}
"""

#: What a stage keeps for each process alone.
CHAINS = "negatives"


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """States of both processes at the end of each stage of a recipe."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_conclude", lambda *_: [])
        patch.setenv("OMP_NUM_THREADS", "1")

        def train(recipe, *sets):
            (folder / "recipe.yaml").write_text(recipe)
            store = Checkpoints(engine.run(folder / "recipe.yaml", root=folder, sets=sets).directory / "checkpoints")
            ends = [checkpoint for checkpoint in store.all() if checkpoint.final]
            return [[store.load(checkpoint, rank=rank) for rank in range(2)] for checkpoint in ends]

        yield train


def flat(state, path=""):
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {key: value for name, part in items for key, value in flat(part, f"{path}/{name}").items()}
    return {path: state}


def differing(first, second):
    """Names of the values that two processes do not agree on."""
    one, two = flat(first), flat(second)
    assert one.keys() == two.keys()
    unlike = {
        name: not torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value != two[name]
        for name, value in one.items()
    }
    return {name for name, different in unlike.items() if different}


@pytest.mark.slow
def test_all_processes_leave_a_stage_with_one_model(states):
    ends = states(NVAE)
    assert len(ends) == 4
    for first, second in ends:
        assert sum("running_var" in name for name in first["model"]) > 10
        assert differing(first["model"], second["model"]) == set()
        own = {CHAINS: first["stage"].pop(CHAINS, None)}, {CHAINS: second["stage"].pop(CHAINS, None)}
        assert differing(first["stage"], second["stage"]) == set()
        assert (own[0][CHAINS] is None) or differing(*own), "chains are each process's own"
        assert differing(first["generator"], second["generator"]), "so are its draws"
    # Each of the stages has moved the batch norms that it trains.
    for (before, _), (after, _), part in zip(ends[:-1], ends[1:], ("energies", "energies", "prior"), strict=True):
        moved = differing(before["model"], after["model"])
        assert any(name.startswith(f"/{part}") and "running_mean" in name for name in moved)


@pytest.mark.slow
def test_a_discriminator_and_the_mean_style_are_the_same_in_all_processes(states):
    ((first, second),) = states(GAN)
    assert any("mapping.mean" in name for name in first["model"])
    assert differing(first["model"], second["model"]) == set()
    assert differing(first["stage"], second["stage"]) == set()
    assert first["stage"]["critic"]

"""Algorithm 1 of DAMC: one draw of the amortizer's average begins both chains of an item."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces import StartRequest
from genfw.interfaces.values import Batch
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.targets import PosteriorTarget, PriorTarget, make_target
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyPrior
from genfw.training.stage import StageRun
from genfw_plugins.ddpm.amortizer import DDPM
from genfw_plugins.mcmc.langevin import Langevin, LangevinState
from genfw_plugins.mcmc.starts.amortizer import AmortizerStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.training.alternating import Alternating, Amortize
from genfw_plugins.training.optimizers import Adam

ITEMS = 4


class Watched(Langevin):
    """Langevin that remembers the target and the position that each chain began with."""

    def __init__(self) -> None:
        super().__init__(step_size=1e-2, steps=2)
        self.began: list[tuple[str, Tensor]] = []

    def plan(self, steps: int) -> None:
        self.fresh = True

    def init(self, target, position, generator) -> LangevinState:
        if self.fresh:
            self.began.append((type(target).__name__, position.clone()))
            self.fresh = False
        return super().init(target, position, generator)


class Counted(DDPM):
    """A diffusion model whose copies too count into one list how often they are sampled."""

    calls: list[Tensor]

    def __deepcopy__(self, memo):
        other = Counted.__new__(Counted)
        memo[id(self)] = other
        other.__dict__ = {k: self.calls if k == "calls" else copy.deepcopy(v, memo) for k, v in self.__dict__.items()}
        return other

    def sample_given(self, x, *, generator):
        self.calls.append(super().sample_given(x, generator=generator))
        return self.calls[-1]


def build():
    """A DAMC stage in small, as a recipe with `share_start: true` composes it."""
    torch.manual_seed(0)
    prior = TinyPrior()
    layout = Model(prior).latent_layout
    amortizer = Counted(layout, (2,), TinyEncoder(prior), steps=3, token="constant", widths=(8,), time_features=8)
    amortizer.calls = []
    model = Model(
        prior,
        TinyDecoder(),
        energy=MLPEnergy(latent_layout=layout, on="latent", hidden=(8,)),
        amortizer=amortizer,
    )
    sampler = Watched()
    stage = Alternating(
        model=model,
        steps=20,
        batch=ITEMS,
        posterior=Chain(sampler, AmortizerStart(amortizer=amortizer, ema=0.5, every=2)),
        prior=Chain(sampler, NoiseStart(), count=2 * ITEMS),
        share_start=True,
        optimizer=Adam(lr=1e-2),
        energy_optimizer=Adam(lr=1e-2),
        amortize=Amortize(optimizer=Adam(lr=0.05), updates=2),
    )
    stage.run = StageRun(Fabric(accelerator="cpu"), torch.device("cpu"), torch.Generator().manual_seed(0), 100)
    stage.setup()
    return model, stage, sampler


def batch_at(step: int) -> Batch:
    return Batch(torch.randn(ITEMS, 2, generator=torch.Generator().manual_seed(step)), torch.arange(ITEMS))


def test_one_draw_of_the_average_begins_both_chains_of_every_item() -> None:
    model, stage, sampler = build()
    for step in range(5):
        stage.step(batch_at(step), step)
    for step in range(5):
        (posterior, first), (prior, second) = sampler.began[2 * step : 2 * step + 2]
        assert (posterior, prior) == (PosteriorTarget.__name__, PriorTarget.__name__)
        assert torch.equal(first, second[:ITEMS])  # item by item the same, on its way to two laws
        assert second.shape == (2 * ITEMS, 2)
        assert not torch.isin(second[ITEMS:], first).any()  # the others begin in noise
        assert torch.equal(first, model.amortizer.calls[step])
    assert len(model.amortizer.calls) == 5  # and so the network is walked once in a step
    # They come from the average: the amortizer itself would have drawn others from the same noise.
    x, position = batch_at(9).x, []
    for start in (stage.posterior.starts[0], AmortizerStart(amortizer=model.amortizer)):
        asked = StartRequest(ITEMS, PosteriorTarget(model, x), torch.Generator().manual_seed(1), x)
        position.append(start.draw(asked))
    own = [value.clone() for value in model.amortizer.parameters()]
    average = list(stage.posterior.starts[0]._network().parameters())
    assert max(float((a - b).detach().abs().max()) for a, b in zip(own, average, strict=True)) > 1e-3
    assert not torch.allclose(*position)


@pytest.mark.parametrize("stop", [3, 4])  # between two moves of the average, and at one
def test_goes_on_bit_for_bit(stop) -> None:
    model, stage, _ = build()
    for step in range(stop):
        stage.step(batch_at(step), step)
    state, weights = copy.deepcopy(stage.state_dict()), copy.deepcopy(model.state_dict())
    generator = stage.run.generator.get_state()
    rows = [stage.step(batch_at(step), step) for step in range(stop, 8)]

    model_again, again, _ = build()
    model_again.load_state_dict(weights)
    again.load_state_dict(state)
    again.run.generator.set_state(generator)
    for step, row in zip(range(stop, 8), rows, strict=True):
        repeated = again.step(batch_at(step), step)
        assert {k: v.item() for k, v in repeated.items()} == {k: v.item() for k, v in row.items()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, model_again.state_dict()[name]), name


def test_the_starts_have_the_chains_beyond_those_that_are_given() -> None:
    given, target = torch.randn(3, 2), make_target(build()[0], "prior")

    class Asked(NoiseStart):
        def draw(self, request):
            asked.append((request.count, request.index.tolist()))
            return super().draw(request)

    x, index = torch.zeros(3, 2), torch.tensor([10, 11, 12])
    for count, expected in ((8, [(2, [10, 11]), (3, [12, 10, 11])]), (4, [(1, [10])]), (3, []), (2, [])):
        asked: list[tuple[int, list[int]]] = []
        chain = Chain(Langevin(step_size=1e-2, steps=1), [Asked(), Asked()], count=count)
        generator = torch.Generator().manual_seed(0)
        result = chain.run(target, 5, generator=generator, x=x, index=index, first=given)
        assert torch.equal(result.start[:3], given[:count])
        assert len(result.start) == count
        assert asked == expected


def test_there_must_be_chains_to_share_with() -> None:
    model = Model(TinyPrior(), TinyDecoder())
    chain = Chain(Langevin(step_size=1e-2), NoiseStart())
    with pytest.raises(ContractError, match="share_start lends the prior chains where the posterior chains begin"):
        Alternating(model=model, steps=1, batch=1, posterior=chain, optimizer=Adam(lr=1e-2), share_start=True)

"""Where chains begin, and where their ends go."""

from __future__ import annotations

import copy

import attrs
import pytest
import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces import Amortizer, Decoder, Encoder, Energy, Posterior, Start, StartRequest
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.target import Target
from genfw.interfaces.values import Latent
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.sampling import preserved
from genfw.models.targets import FunctionTarget, make_target
from genfw.runs.state_tree import join_tree, split_tree
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts import replay
from genfw_plugins.mcmc.starts.amortizer import AmortizerStart
from genfw_plugins.mcmc.starts.data import DataStart
from genfw_plugins.mcmc.starts.encoder import EncoderStart
from genfw_plugins.mcmc.starts.generator import GeneratorStart
from genfw_plugins.mcmc.starts.mixture import MixtureStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mcmc.starts.replay import ReplayStart
from genfw_plugins.mcmc.starts.warm import WarmStart
from recorded_operations import Operations

PLAIN = FunctionTarget(3, lambda position: 0.0 * position[:, 0])


class Doubling(Decoder):
    """x = (2 z, 2 z) + 0.1 eps_x, for a z of two numbers."""

    noise_shape = (2, 2)

    def forward(self, latent) -> Gaussian:
        return Gaussian(2.0 * torch.stack([latent.flat(), latent.flat()], dim=1), 0.1)


class Bowl(Energy):
    def __init__(self, on: str) -> None:
        super().__init__()
        self.on = on

    def forward(self, v: Tensor) -> Tensor:
        return 0.5 * v.flatten(1).square().sum(1)


class Halving(Encoder):
    """q(z | x): centre x / 2, standard deviation 0.01."""

    def forward(self, x, *, noise=None, generator=None, temperature=1.0) -> Posterior:
        centre = 0.5 * x[:, 0]
        z = centre + 0.01 * temperature * torch.randn(centre.shape, generator=generator)
        zero = z.new_zeros(len(z))
        return Posterior(Latent((z,)), z, zero, zero, zero[:, None])


class Mean(Amortizer):
    """Draws one learned point, shifted by what it is given."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(size))

    def sample(self, count, *, generator) -> Tensor:
        return self.point.expand(count, -1)

    def sample_given(self, x, *, generator) -> Tensor:
        return self.point + x[:, 0]

    def loss(self, position, x, *, generator, hidden=None) -> Tensor:
        return (position - self.point).square().sum(1)


@pytest.fixture
def model() -> Model:
    return Model(StandardNormal(2), Doubling(), Halving(), [Bowl("data"), Bowl("latent")], Mean())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def request(
    target: Target = PLAIN,
    count: int = 6,
    *,
    rng: torch.Generator | None = None,
    x: Tensor | None = None,
    index: Tensor | None = None,
    step: int = 0,
) -> StartRequest:
    return StartRequest(count, target, rng or generator(), x=x, index=index, step=step)


class Marked(Start):
    """Begins everywhere at one value, and remembers what it was told."""

    def __init__(self, value: float) -> None:
        self.value, self.stored, self.asked, self.updates = value, [], [], 0

    def draw(self, request: StartRequest) -> Tensor:
        self.asked.append(request)
        return torch.full((request.count, request.target.layout.size), self.value)

    def store(self, request: StartRequest, position: Tensor) -> None:
        self.stored.append(position)

    def after_update(self, step: int) -> None:
        self.updates += 1

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state) -> None:
        self.value = state["value"]


@pytest.mark.parametrize("space", ["noise", "prior", "posterior", "data", "joint"])
def test_noise_begins_in_the_base_of_every_space(space, model) -> None:
    x = torch.randn(6, 2, 2, generator=generator(9)) if space == "posterior" else None
    target = make_target(model, space, x)
    position = NoiseStart().draw(request(target, 3000, x=None if x is None else x.repeat(500, 1, 1)))
    assert position.shape == (3000, target.layout.size)
    if space == "data":
        assert position.abs().max() <= 1.0
        assert position.var().item() == pytest.approx(1 / 3, rel=0.05)
    elif space == "joint":
        # x follows its own z: it comes from the generator, not from a normal of its own.
        assert (position[:, 2:4] - 2.0 * position[:, :2]).std().item() == pytest.approx(0.1, rel=0.05)
    else:
        assert position.var().item() == pytest.approx(1.0, rel=0.05)


class TestReplay:
    def test_certain_replay_of_as_many_slots_as_chains_is_persistent(self) -> None:
        start, rng = ReplayStart(size=6, probability=1.0), generator()
        first = start.draw(request(rng=rng))
        start.store(request(), first + 10.0)
        second = start.draw(request(rng=rng))
        # Every end is gone on with exactly once, in another order.
        assert sorted(second[:, 0].tolist()) == sorted((first + 10.0)[:, 0].tolist())
        assert not torch.equal(second, first + 10.0)
        start.store(request(), second + 10.0)
        third = start.draw(request(rng=rng))
        assert sorted(third[:, 1].tolist()) == pytest.approx(sorted((first + 20.0)[:, 1].tolist()))

    def test_every_end_goes_back_to_the_slot_its_chain_came_from(self) -> None:
        start, rng = ReplayStart(size=40, probability=1.0, fresh=Marked(-1.0)), generator()
        for _ in range(30):  # every slot is drawn at some time
            drawn = start.draw(request(rng=rng, count=20))
            start.store(request(count=20), drawn)
        start.load_state_dict(start.state_dict() | {"buffer": torch.arange(40.0)[:, None].expand(40, 3)})
        for _ in range(10):
            drawn = start.draw(request(rng=rng, count=20))
            start.store(request(count=20), drawn + 1000.0)
            buffer = start.state_dict()["buffer"][:, 0]
            assert torch.equal(buffer % 1000.0, torch.arange(40.0))

    def test_share_of_replayed_chains_follows_the_schedule(self) -> None:
        start, rng, count = ReplayStart(size=2000, probability=0.6, ramp=100, fresh=Marked(0.0)), generator(), 2000
        drawn = start.draw(request(rng=rng, count=count, step=1000))
        assert (drawn == 0.0).all()  # nothing is stored yet
        for step, share in [(0, 0.0), (25, 0.15), (50, 0.3), (100, 0.6), (900, 0.6)]:
            start.store(request(count=count), torch.ones(count, 3))
            drawn = start.draw(request(rng=rng, count=count, step=step))
            assert start.probability_at(step) == pytest.approx(share)
            assert drawn[:, 0].mean().item() == pytest.approx(share, abs=4.5 * 0.5 / count**0.5)

    def test_chains_beyond_the_buffer_begin_fresh_and_are_not_kept(self) -> None:
        start, rng = ReplayStart(size=4, probability=1.0, fresh=Marked(0.0)), generator()
        for _ in range(3):
            start.draw(request(rng=rng, count=10))
            start.store(request(count=10), torch.ones(10, 3))
        drawn = start.draw(request(rng=rng, count=10))
        assert drawn[:, 0].tolist() == [1.0] * 4 + [0.0] * 6

    def test_groups_left_out_are_drawn_afresh(self, model) -> None:
        target = make_target(model, "noise")
        assert target.layout.names == ("z.0", "x")
        start, rng = ReplayStart(size=50, probability=1.0, groups=["z"]), generator()
        start.draw(request(target, 50, rng=rng))
        start.store(request(target, 50), torch.full((50, 6), 7.0))
        drawn = target.layout.split(start.draw(request(target, 50, rng=rng)))
        assert (drawn["z.0"] == 7.0).all()
        assert drawn["x"].std().item() == pytest.approx(1.0, rel=0.3)
        assert start.state_dict()["buffer"].shape == (50, 2)
        with pytest.raises(ContractError, match=r"no noise group 'y'; there are z\.0, x"):
            ReplayStart(groups=["y"]).draw(request(target))

    def test_half_precision_rounds_what_is_kept(self) -> None:
        start, rng = ReplayStart(size=6, probability=1.0, storage="bfloat16"), generator()
        ends = start.draw(request(rng=rng))
        start.store(request(), ends)
        again = start.draw(request(rng=rng))
        assert again.dtype == torch.float32
        assert start.state_dict()["buffer"].dtype == torch.bfloat16
        torch.testing.assert_close(again.sort(0).values, ends.sort(0).values, rtol=2**-8, atol=0)

    def test_goes_on_from_its_state(self) -> None:
        start, rng = ReplayStart(size=12, probability=0.7), generator()
        for _ in range(3):
            start.store(request(), start.draw(request(rng=rng)) + 1.0)
        other = ReplayStart(size=12, probability=0.7)
        other.load_state_dict(copy.deepcopy(start.state_dict()))
        draws = [kept.draw(request(rng=generator(5))) for kept in (start, other)]
        assert torch.equal(*draws)
        other.store(request(), draws[1] * 0.0)
        assert not torch.equal(start.state_dict()["buffer"], other.state_dict()["buffer"])

    def test_a_large_buffer_lies_in_host_memory(self, monkeypatch) -> None:
        device = torch.device("meta")
        monkeypatch.setattr(replay, "_ON_DEVICE", 6 * 3 * 4)
        assert {part.device for part in ReplayStart(size=6)._allocate(3, device)} == {device}
        assert {part.device.type for part in ReplayStart(size=7)._allocate(3, device)} == {"cpu"}
        assert {part.device for part in ReplayStart(size=12, storage="bfloat16")._allocate(3, device)} == {device}

    def test_a_rebuilt_buffer_outlives_an_evaluation_but_not_a_checkpoint(self, caplog) -> None:
        start, rng = ReplayStart(size=6, probability=1.0, keep="rebuilt", fresh=Marked(-1.0), order="fifo"), generator()
        start.draw(request(rng=rng, count=4))
        start.store(request(count=4), torch.arange(4.0)[:, None].expand(4, 3))
        with preserved(start):
            start.draw(request(rng=rng, count=4))
            start.store(request(count=4), torch.full((4, 3), 9.0))
        kept = start.state_dict()["rebuilt"].value
        assert kept["buffer"][:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]
        assert kept["next"] == 4
        assert not caplog.messages
        structure, tensors = split_tree(start.state_dict())
        assert tensors == {}
        for resumed in (start, ReplayStart(size=6, probability=1.0, keep="rebuilt", fresh=Marked(-1.0), order="fifo")):
            caplog.clear()
            resumed.load_state_dict(join_tree(structure, tensors))
            assert caplog.messages == [
                "genfw: the replay buffer is not in the checkpoint (keep: rebuilt); chains begin fresh"
            ]
            assert (resumed.draw(request(rng=rng, count=4)) == -1.0).all()
            resumed.store(request(count=4), torch.full((4, 3), 5.0))
            assert (resumed.draw(request(rng=rng, count=4)) == 5.0).all()

    def test_first_in_is_first_out_and_ends_stay_where_chains_go_on(self) -> None:
        start, rng = ReplayStart(size=10, probability=1.0, fresh=Marked(-1.0), order="fifo"), generator()
        assert (start.draw(request(rng=rng, count=4)) == -1.0).all()  # nothing is stored yet
        for number in range(5):
            start.store(request(count=4), torch.full((4, 3), float(number)))
            drawn = start.draw(request(rng=rng, count=4))
            # The last ten ends of 4, 8, ..., 20; a chain goes on from any of them, and takes none away.
            known = [end // 4 for end in range(4 * number + 4)][-10:]
            buffer = start.state_dict()["buffer"][:, 0]
            assert sorted(buffer[: len(known)].tolist()) == known
            assert set(drawn[:, 0].tolist()) <= set(map(float, known))
        state = copy.deepcopy(start.state_dict())
        older = {key: value for key, value in state.items() if key != "known"}  # of a run before there was this count
        others = [ReplayStart(size=10, probability=1.0, fresh=Marked(-1.0), order="fifo") for _ in range(2)]
        for other, saved in zip(others, (state, older), strict=True):
            other.load_state_dict(saved)
        drawn = [kept.draw(request(rng=generator(1), count=4)) for kept in (start, *others)]
        for kept in (start, *others):
            kept.store(request(count=4), torch.full((4, 3), 9.0))
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])
        assert torch.equal(start.state_dict()["buffer"], others[0].state_dict()["buffer"])

    @pytest.mark.parametrize("order", ["own", "fifo"])
    def test_the_host_does_not_wait_for_the_buffer(self, order) -> None:
        start, rng = ReplayStart(size=10, probability=0.5, order=order), generator()
        with Operations():
            for _ in range(3):
                start.store(request(), start.draw(request(rng=rng)) + 1.0)

    def test_refuses_what_it_would_get_wrong(self, model) -> None:
        x = torch.zeros(6, 2, 2)
        with pytest.raises(ContractError, match="'warm'"):
            ReplayStart().draw(request(make_target(model, "posterior", x), x=x))
        start = ReplayStart(size=6)
        with pytest.raises(ContractError, match="do not match"):
            start.store(request(), torch.zeros(6, 3))
        start.draw(request())
        with pytest.raises(ContractError, match="this target needs"):
            start.draw(request(make_target(model, "prior")))
        with pytest.raises(ContractError, match=r"probability must lie in \[0, 1\], got 1.5"):
            ReplayStart(probability=1.5)


class TestWarm:
    def test_every_row_goes_on_with_its_own_chain(self) -> None:
        start = WarmStart(fresh=Marked(0.0))
        rows = torch.tensor([4, 1, 7])
        assert (start.draw(request(count=3, index=rows)) == 0).all()
        start.store(request(count=3, index=rows), torch.tensor([[4.0], [1.0], [7.0]]).expand(3, 3))
        drawn = start.draw(request(count=5, index=torch.tensor([7, 0, 1, 9, 4])))
        assert drawn[:, 0].tolist() == [7.0, 0.0, 1.0, 0.0, 4.0]

    def test_known_size_and_grown_table_agree_and_resume(self) -> None:
        grown, sized = WarmStart(), WarmStart(size=10)
        rows = torch.tensor([3, 5])
        for start in (grown, sized):
            start.draw(request(count=2, index=rows))
            start.store(request(count=2, index=rows), torch.ones(2, 3))
        other = WarmStart()
        other.load_state_dict(copy.deepcopy(sized.state_dict()))
        wanted = torch.tensor([5, 8, 3])
        draws = [start.draw(request(count=3, index=wanted)) for start in (grown, sized, other)]
        assert torch.equal(draws[0], draws[1])
        assert torch.equal(draws[0], draws[2])
        assert (draws[0][[0, 2]] == 1.0).all()

    def test_of_several_chains_of_a_row_the_last_is_kept(self) -> None:
        start = WarmStart(fresh=Marked(0.0))
        rows = torch.tensor([2, 0, 2, 0, 2])
        start.draw(request(count=5, index=rows))
        start.store(request(count=5, index=rows), torch.arange(5.0)[:, None].expand(5, 3))
        assert start.draw(request(count=2, index=torch.tensor([0, 2])))[:, 0].tolist() == [3.0, 4.0]

    def test_needs_row_numbers(self) -> None:
        with pytest.raises(ContractError, match="'replay'"):
            WarmStart().draw(request())


class TestStartsFromData:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(6, 1, 1)

    def test_data_begins_in_the_batch(self, model) -> None:
        target = make_target(model, "data")
        assert torch.equal(DataStart().draw(request(target, x=self.x)), self.x.flatten(1))
        noisy = DataStart(noise=0.5).draw(request(target, 600, x=self.x.repeat(100, 1, 1)))
        assert (noisy - self.x.repeat(100, 1, 1).flatten(1)).std().item() == pytest.approx(0.5, rel=0.1)
        with pytest.raises(ContractError, match="positions here are noise"):
            DataStart().draw(request(make_target(model, "noise"), x=self.x))
        with pytest.raises(ContractError, match="there is none here"):
            DataStart().draw(request(target))

    @pytest.mark.parametrize("space", ["noise", "prior", "posterior"])
    def test_encoder_begins_in_its_posterior(self, space, model) -> None:
        target = make_target(model, space, self.x if space == "posterior" else None)
        position = EncoderStart(encoder=model.encoder).draw(request(target, x=self.x))
        blocks = target.layout.split(position)
        torch.testing.assert_close(blocks["z.0"], 0.5 * self.x[:, 0], atol=0.06, rtol=0)
        if space == "noise":
            assert blocks["x"].std().item() == pytest.approx(1.0, rel=0.5)

    def test_encoder_begins_beside_the_data_in_joint_space(self, model) -> None:
        target = make_target(model, "joint")
        position = EncoderStart(encoder=model.encoder, temperature=0.0).draw(request(target, x=self.x))
        assert torch.equal(position, torch.cat([0.5 * self.x[:, 0], self.x.flatten(1)], dim=1))

    def test_encoder_refuses_what_it_cannot_give(self, model) -> None:
        with pytest.raises(ContractError, match="use 'data'"):
            EncoderStart(encoder=model.encoder).draw(request(make_target(model, "data"), x=self.x))
        with pytest.raises(ContractError, match="use 'noise'"):
            EncoderStart(encoder=model.encoder).draw(request(make_target(model, "prior")))

    def test_encoder_is_left_in_training_mode_and_without_gradients(self, model) -> None:
        model.encoder.train()
        position = EncoderStart(encoder=model.encoder).draw(request(make_target(model, "prior"), x=self.x))
        assert model.encoder.training
        assert not position.requires_grad


class TestAmortizer:
    def test_draws_given_x_for_a_posterior_alone(self, model) -> None:
        x = torch.arange(24.0).view(6, 2, 2)
        start = AmortizerStart(amortizer=model.amortizer)
        posterior = start.draw(request(make_target(model, "posterior", x), x=x))
        assert torch.equal(posterior, x[:, 0])
        # Prior chains see the batch too, and must not be conditioned on it.
        assert (start.draw(request(make_target(model, "prior"), x=x)) == 0).all()
        with pytest.raises(ContractError, match="needs the data x"):
            start.draw(request(make_target(model, "posterior", x)))

    def test_completes_positions_with_fresh_decoder_noise(self, model) -> None:
        target = make_target(model, "noise")
        blocks = target.layout.split(AmortizerStart(amortizer=model.amortizer).draw(request(target, 500)))
        assert (blocks["z.0"] == 0).all()
        assert blocks["x"].std().item() == pytest.approx(1.0, rel=0.1)
        whole = AmortizerStart(amortizer=Mean(6)).draw(request(target))
        assert (whole == 0).all()
        with pytest.raises(ContractError, match=r"the chains need 6 with the groups z\.0"):
            AmortizerStart(amortizer=Mean(5)).draw(request(target))

    def test_average_follows_at_its_rate_every_so_many_steps(self, model) -> None:
        start, target = AmortizerStart(amortizer=model.amortizer, ema=0.25, every=2), make_target(model, "prior")
        start.draw(request(target))
        with torch.no_grad():
            model.amortizer.point.fill_(1.0)
        expected = 0.0
        for step in range(6):
            start.after_update(step)
            if step % 2:
                expected += 0.25 * (1.0 - expected)
            assert start.draw(request(target))[0, 0].item() == pytest.approx(expected)
        assert (AmortizerStart(amortizer=model.amortizer).draw(request(target)) == 1.0).all()

        other = AmortizerStart(amortizer=model.amortizer, ema=0.25, every=2)
        other.load_state_dict(copy.deepcopy(start.state_dict()))
        assert torch.equal(other.draw(request(target)), start.draw(request(target)))

    def test_network_is_trained_on_as_before(self, model) -> None:
        AmortizerStart(amortizer=model.amortizer, ema=0.1).draw(request(make_target(model, "prior")))
        assert model.amortizer.point.requires_grad
        assert model.amortizer.training


def test_generator_begins_in_its_own_draws(model) -> None:
    target = make_target(model, "data")
    x = GeneratorStart(model=model).draw(request(target, 2000)).view(2000, 2, 2)
    assert x.var().item() == pytest.approx(4.0 + 0.01, rel=0.1)
    assert (x[:, 0] - x[:, 1]).std().item() == pytest.approx(0.1 * 2**0.5, rel=0.1)
    mean = GeneratorStart(model=model, mean=True, temperature=0.5).draw(request(target, 2000)).view(2000, 2, 2)
    assert torch.equal(mean[:, 0], mean[:, 1])
    assert mean.var().item() == pytest.approx(1.0, rel=0.1)
    with pytest.raises(ContractError, match="'noise'"):
        GeneratorStart(model=model).draw(request(make_target(model, "noise")))
    with pytest.raises(ContractError, match="needs a prior and a decoder"):
        GeneratorStart(model=Model(energy=Bowl("data"), data_shape=(2,)))


class TestMixture:
    def test_every_end_goes_back_to_the_start_its_chain_came_from(self) -> None:
        parts = [Marked(1.0), Marked(2.0), Marked(3.0)]
        start = MixtureStart(starts=list(parts), weights=[1.0, 0.0, 3.0])
        index = torch.arange(4000)
        asked = request(count=4000, x=index[:, None].float(), index=index)
        drawn = start.draw(asked)
        assert (drawn == 3.0).all(1).double().mean().item() == pytest.approx(0.75, abs=4.5 * 0.43 / 4000**0.5)
        ends = drawn * 10_000 + index[:, None]
        start.store(asked, ends)
        assert parts[1].asked == parts[1].stored == []
        for part in (parts[0], parts[2]):
            rows = part.asked[0].index
            assert torch.equal(part.stored[0], ends[rows])
            assert torch.equal(part.asked[0].x[:, 0], rows.float())  # each start sees the data of its own chains
            assert (part.stored[0] // 10_000 == part.value).all()

    def test_replay_inside_a_mixture_keeps_its_own_ends_alone(self) -> None:
        rng = generator()
        replay = ReplayStart(size=400, probability=1.0, fresh=Marked(0.0))
        chain = Chain(Langevin(step_size=1e-9, steps=1), MixtureStart(starts=[replay, Marked(50.0)]))
        for step in range(5):
            chain.run(PLAIN, 40, generator=rng, step=step)
        state = chain.state_dict()["starts"][0]["starts"][0]
        kept = state["buffer"][state["filled"]]
        assert 40 < len(kept) < 160
        assert kept.abs().max() < 1.0

    def test_passes_on_updates_and_state(self) -> None:
        parts = [Marked(1.0), Marked(2.0)]
        start = MixtureStart(starts=list(parts))
        start.after_update(0)
        assert [part.updates for part in parts] == [1, 1]
        other = MixtureStart(starts=[Marked(0.0), Marked(0.0)])
        other.load_state_dict(start.state_dict())
        assert [part.value for part in other.starts] == [1.0, 2.0]

    def test_refuses_weights_that_do_not_fit(self) -> None:
        with pytest.raises(ContractError, match="2 starts, 1 weights"):
            MixtureStart(starts=[Marked(0.0), Marked(1.0)], weights=[1.0])
        with pytest.raises(ContractError, match=r"weights must not all be 0, got \[0\.0\]"):
            MixtureStart(starts=[Marked(0.0)], weights=[0.0])
        start = MixtureStart(starts=[Marked(0.0)])
        asked = request()
        start.draw(asked)
        with pytest.raises(ContractError, match="do not match"):
            start.store(attrs.evolve(asked, count=3), torch.zeros(3, 3))

"""Suites of the networks: energy, prior, decoder, encoder, amortizer."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces import Amortizer, Decoder, Encoder, Energy, Posterior, Prior
from genfw.interfaces.values import Latent, NoiseLayout, Size
from genfw.nn.normal_encoder import NormalEncoder
from genfw.testing.suite import ComponentSuite, ModuleSuite, generator_of, stored

#: Largest event for a full Jacobian.
JACOBIAN_LIMIT = 512


def _log_normal(noise: Tensor) -> Tensor:
    return -0.5 * noise.square().flatten(1).sum(1) - 0.5 * noise[0].numel() * math.log(2 * math.pi)


def _log_volume(function: Any, noise: Tensor) -> Tensor:
    """Log volume change of a map of flat noise ``(D,)`` at each row of ``noise``."""
    matrices = torch.stack([torch.autograd.functional.jacobian(function, row) for row in noise])
    log_volume: Tensor = torch.linalg.slogdet(matrices).logabsdet
    return log_volume


class EnergySuite(ModuleSuite):
    """The laws of an energy. Fill in :attr:`shape` and :meth:`make`."""

    #: Shape of one point, without batch.
    shape: Size

    @abc.abstractmethod
    def make(self) -> Energy:
        """See :meth:`ModuleSuite.make`."""

    def item_shape(self, module: Energy) -> Size:
        return self.shape

    def apply(self, module: Energy, v: Tensor) -> Tensor:
        energy: Tensor = module(v)
        assert energy.shape == v.shape[:1], (
            f"an energy is one number per item, ({v.shape[0]},), got {tuple(energy.shape)}"
        )
        return energy[:, None]

    def test_says_what_it_reads(self) -> None:
        """``on`` is ``data`` or ``latent``."""
        assert self.make().on in ("data", "latent"), f"on is 'data' or 'latent', got {self.make().on!r}"

    def test_penalty_is_one_number_or_none(self) -> None:
        """A penalty is a differentiable scalar."""
        _check_penalty(self.prepared())

    def test_ends_in_full_precision_under_autocast(self) -> None:
        """bfloat16 has no room for the gap between energies of data and negatives beside their level."""
        energy = self.prepared().float()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found = energy(self.inputs(energy, 3).float()).dtype
        assert found == torch.float32, (
            f"under autocast the energies are {found}; compute the last layer by genfw.nn.precision.apply_in_full"
        )


def _check_penalty(module: Energy | Decoder | Encoder) -> None:
    penalty = module.train().penalty()
    if penalty is not None:
        assert penalty.ndim == 0, f"a penalty is one number, got shape {tuple(penalty.shape)}"
        assert penalty.requires_grad, "a penalty that no weight can reduce"


class PriorSuite(ModuleSuite):
    """The laws of a prior. Fill in :meth:`make`."""

    @abc.abstractmethod
    def make(self) -> Prior:
        """See :meth:`ModuleSuite.make`."""

    def layout(self, prior: Prior) -> NoiseLayout:
        """The layout of the prior's noise in a model."""
        return NoiseLayout.of_latents(prior.noise_shapes)

    def item_shape(self, module: Prior) -> Size:
        return (self.layout(module).size,)

    def transform(self, prior: Prior, noise: Tensor, temperature: float = 1.0) -> Latent:
        """The latent of flat noise."""
        return prior.transform(list(self.layout(prior).split(noise).values()), temperature)

    def apply(self, module: Prior, v: Tensor) -> Tensor:
        latent = self.transform(module, v)
        log_prob = module.log_prob(latent)
        assert log_prob.shape == v.shape[:1], f"log_prob is one number per item, got shape {tuple(log_prob.shape)}"
        return torch.cat([latent.flat(), log_prob[:, None]], dim=1)

    def test_density_is_that_of_the_transformed_noise(self) -> None:
        r"""Change of variables: :math:`\log p(T(\epsilon)) = \log N(\epsilon) - \log |\det T'(\epsilon)|`."""
        prior = self.prepared()
        noise = self.inputs(prior, 3)
        latent = self.transform(prior, noise)
        size = latent.flat().shape[1]
        if size != noise.shape[1] or size > JACOBIAN_LIMIT:
            return  # no bijection of the whole space, or too large
        volume = _log_volume(lambda row: self.transform(prior, row[None]).flat()[0], noise)
        with torch.no_grad():
            expected = _log_normal(noise) - volume
            self._assert_close(prior.log_prob(latent), expected, "log_prob is not the density of transform's law")

    def test_temperature_is_a_factor_on_the_scale(self) -> None:
        """At temperature 0 the noise has no effect; temperature 1 is the default."""
        prior = self.prepared()
        noise = self.inputs(prior, 2)
        with torch.no_grad():
            centre = self.transform(prior, noise, 0.0).flat()
            self._assert_close(centre[0], centre[1], "at temperature 0 the noise still has an effect")
            unit = self.transform(prior, noise, 1.0).flat()
            self._assert_close(unit, self.transform(prior, noise).flat(), "temperature 1 is not the default")


class DecoderSuite(ModuleSuite):
    """The laws of a decoder. Fill in :attr:`latent_shapes` and :meth:`make`."""

    #: Shape of each latent group that the decoder reads, without batch.
    latent_shapes: Sequence[Size]

    @abc.abstractmethod
    def make(self) -> Decoder:
        """See :meth:`ModuleSuite.make`."""

    def item_shape(self, module: Decoder) -> Size:
        return (sum(math.prod(shape) for shape in self.latent_shapes),)

    def latent(self, module: Decoder, flat: Tensor) -> Latent:
        """A latent from flat numbers; override it where the decoder needs its prior's context."""
        blocks = flat.split([math.prod(shape) for shape in self.latent_shapes], dim=1)
        return Latent(tuple(b.unflatten(1, shape) for b, shape in zip(blocks, self.latent_shapes, strict=True)))

    def noise(self, module: Decoder, count: int, like: Tensor) -> Tensor:
        """The same noise for every item, so that items differ only by their latent; empty without noise."""
        shape = module.noise_shape if module.noise_shape is not None else (0,)
        noise = torch.randn(1, *shape, generator=generator_of(5), dtype=torch.float64)
        return noise.to(like).expand(count, *shape)

    def apply(self, module: Decoder, v: Tensor) -> Tensor:
        likelihood = module(self.latent(module, v))
        x = likelihood.transform(self.noise(module, len(v), v))
        columns = [likelihood.mean.flatten(1), x.flatten(1)]
        if module.noise_shape is not None:
            columns.append(likelihood.log_prob(torch.zeros_like(likelihood.mean))[:, None])
        return torch.cat(columns, dim=1)

    def test_noise_shape_is_the_likelihood_s(self) -> None:
        """Decoder and likelihood agree on the noise, and transformed noise has the shape of the mean."""
        decoder = self.prepared()
        v = self.inputs(decoder, 2)
        likelihood = decoder(self.latent(decoder, v))
        stated, given = decoder.noise_shape, likelihood.noise_shape
        assert stated == given, f"noise_shape is {stated}, that of the likelihood {given}"
        assert likelihood.transform(self.noise(decoder, 2, v)).shape == likelihood.mean.shape

    def test_density_is_that_of_the_transformed_noise(self) -> None:
        r"""Change of variables in :math:`\epsilon_x`; without noise, ``log_prob`` raises a ContractError."""
        decoder = self.prepared()
        v = self.inputs(decoder, 1)
        likelihood = decoder(self.latent(decoder, v))
        noise = self.noise(decoder, 1, v)
        if decoder.noise_shape is None:
            try:
                likelihood.log_prob(likelihood.mean)
            except ContractError:
                return
            raise AssertionError("a decoder without noise has no density, and must say so by a ContractError")
        if noise.numel() > JACOBIAN_LIMIT:
            return
        flat = noise.flatten(1).clone()
        volume = _log_volume(lambda row: likelihood.transform(row.view_as(noise)).flatten(), flat)
        with torch.no_grad():
            log_prob = likelihood.log_prob(likelihood.transform(noise))
            self._assert_close(log_prob, _log_normal(flat) - volume, "log_prob is not the density of transform's law")

    def test_draws_follow_the_generator(self) -> None:
        """The same seed gives the same draw, whatever the global generator does."""
        decoder = self.prepared()
        with torch.no_grad():
            likelihood = decoder(self.latent(decoder, self.inputs(decoder, 2)))
            draws = [_with_global(seed, lambda: likelihood.sample(generator=generator_of(1))) for seed in (1, 2)]
        assert torch.equal(*draws), "a draw depends on more than its generator"

    def test_penalty_is_one_number_or_none(self) -> None:
        """A penalty is a scalar that can be differentiated."""
        _check_penalty(self.prepared())


def _with_global(seed: int, call: Any) -> Any:
    """Call with the global generator seeded, and check that the call does not use it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        result = call()
        assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
    return result


class EncoderSuite(ModuleSuite):
    """The laws of an encoder. Fill in :attr:`shape` and :meth:`make`, and :meth:`prior` where nothing else tells it."""

    #: Shape of one item of data, without batch.
    shape: Size

    @abc.abstractmethod
    def make(self) -> Encoder:
        """See :meth:`ModuleSuite.make`."""

    def prior(self, encoder: Encoder) -> Prior | None:
        """The prior of the encoder's noise, where a test has it; that of a ``NormalEncoder`` is its own."""
        return encoder.prior if isinstance(encoder, NormalEncoder) else None

    def item_shape(self, module: Encoder) -> Size:
        return self.shape

    def posterior(self, encoder: Encoder, x: Tensor) -> Posterior:
        """A draw with the same noise for every item, so that items differ only by ``x``."""
        with torch.no_grad():
            size = encoder(x[:1], temperature=0.0, generator=_generator_like(x)).noise.shape[1]
        noise = torch.randn(1, size, generator=generator_of(6), dtype=torch.float64).to(x).expand(len(x), size)
        posterior: Posterior = encoder(x, noise=noise)
        return posterior

    def apply(self, module: Encoder, v: Tensor) -> Tensor:
        posterior = self.posterior(module, v)
        for name, value in (("log_q", posterior.log_q), ("log_p", posterior.log_p)):
            assert value.shape == v.shape[:1], f"{name} is one number per item, got shape {tuple(value.shape)}"
        groups = (len(v), len(posterior.latent.groups))
        assert posterior.kl.shape == groups, f"kl has shape (B, G) = {groups}, got {tuple(posterior.kl.shape)}"
        densities = torch.stack([posterior.log_q, posterior.log_p], dim=1)
        return torch.cat([posterior.latent.flat(), posterior.noise, densities, posterior.kl], dim=1)

    def test_densities_agree_with_the_divergence(self) -> None:
        r"""The mean of :math:`\log q - \log p` over draws is the divergence, within five standard errors."""
        encoder = self.prepared()
        x = self.inputs(encoder, 1).expand(4000, *self.shape)
        with torch.no_grad():
            posterior = encoder(x, generator=generator_of(8))
        error = posterior.log_q - posterior.log_p - posterior.kl.sum(1)
        allowed = 5.0 * float(error.std()) / math.sqrt(len(x)) + 1e-8
        assert abs(float(error.mean())) <= allowed, (
            f"the mean of log q - log p misses kl by {float(error.mean()):.4g} nats; chance explains {allowed:.4g}"
        )

    def test_noise_maps_to_the_latent(self) -> None:
        r""":math:`T_z` of the posterior's noise is the posterior's latent."""
        encoder = self.prepared()
        prior = self.prior(encoder)
        if prior is None:
            return
        posterior = self.posterior(encoder, self.inputs(encoder, 3))
        layout = NoiseLayout.of_latents(prior.noise_shapes)
        latent = prior.transform(list(layout.split(posterior.noise).values()))
        self._assert_close(
            latent.flat(), posterior.latent.flat(), "the prior's transform of the noise is not the latent"
        )

    def test_draws_follow_the_generator(self) -> None:
        """The same seed gives the same draw, whatever the global generator does; temperature 0 gives the centre."""
        encoder = self.prepared()
        x = self.inputs(encoder, 2)
        with torch.no_grad():
            draws = [_with_global(s, lambda: encoder(x, generator=generator_of(1)).noise) for s in (1, 2)]
            assert torch.equal(*draws), "a draw depends on more than its generator"
            centres = [encoder(x, generator=generator_of(s), temperature=0.0).noise for s in (1, 2)]
        self._assert_close(centres[0], centres[1], "at temperature 0 the draw still depends on the noise")

    def test_penalty_is_one_number_or_none(self) -> None:
        """A penalty is a scalar that can be differentiated."""
        _check_penalty(self.prepared())


def _generator_like(x: Tensor) -> torch.Generator | None:
    return None if x.device.type == "meta" else torch.Generator(x.device).manual_seed(0)


class AmortizerSuite(ComponentSuite):
    """The laws of an amortizer. Fill in :attr:`size`, :attr:`shape` and :meth:`make`."""

    #: Length of a position.
    size: int
    #: Shape of one item of data that ``sample_given`` is conditioned on.
    shape: Size

    @abc.abstractmethod
    def make(self) -> Amortizer:
        """A new small amortizer, in float32."""

    def _seeded(self, seed: int = 0) -> Amortizer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def _data(self, count: int) -> Tensor:
        return torch.randn(count, *self.shape, generator=generator_of(4))

    def test_positions_are_drawn_by_the_generator_alone(self) -> None:
        """Draws have shape ``(B, D)``, no graph, and depend only on the generator."""
        amortizer = self._seeded().eval()
        x = self._data(3)
        for draw in (
            lambda: amortizer.sample(3, generator=generator_of(1)),
            lambda: amortizer.sample_given(x, generator=generator_of(1)),
        ):
            first, second = (_with_global(seed, draw) for seed in (1, 2))
            assert first.shape == (3, self.size), f"expected positions (3, {self.size}), got {tuple(first.shape)}"
            assert not first.requires_grad, "positions carry a graph"
            assert bool(first.isfinite().all()), "positions are not finite"
            assert torch.equal(first, second), "a draw depends on more than its generator"
        other = amortizer.sample(3, generator=generator_of(2))
        assert not torch.equal(other, amortizer.sample(3, generator=generator_of(1))), "the seed has no effect"

    def test_loss_is_one_number_per_item(self) -> None:
        """With and without data, and reproducible."""
        amortizer = self._seeded().eval()
        position, x = torch.randn(3, self.size, generator=generator_of(3)), self._data(3)
        for condition in (None, x):
            losses = [amortizer.loss(position, condition, generator=generator_of(1)) for _ in range(2)]
            assert losses[0].shape == (3,), f"expected losses (3,), got {tuple(losses[0].shape)}"
            assert torch.equal(*losses), "the loss depends on more than its generator"

    def test_gradient_reaches_every_parameter(self) -> None:
        """The two losses together train every weight."""
        amortizer = self._seeded()
        generator = generator_of(1)
        with torch.no_grad():
            for parameter in amortizer.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        position, x = torch.randn(8, self.size, generator=generator), self._data(8)
        loss = amortizer.loss(position, None, generator=generator) + amortizer.loss(position, x, generator=generator)
        parameters = dict(amortizer.named_parameters())
        gradients = torch.autograd.grad(loss.sum(), list(parameters.values()), allow_unused=True)
        idle = [name for name, g in zip(parameters, gradients, strict=True) if g is None or not bool(g.any())]
        assert not idle, f"no gradient reaches {', '.join(idle)}"

    def test_training_lowers_the_loss(self) -> None:
        """Training on fixed positions and noise lowers the loss."""
        amortizer = self._seeded()
        optimizer = torch.optim.Adam(amortizer.parameters(), lr=1e-3)
        position = 2.0 + 0.1 * torch.randn(64, self.size, generator=generator_of(3))
        losses = []
        for _ in range(30):
            loss = amortizer.loss(position, None, generator=generator_of(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0], f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g} in 30 steps of Adam"

    def test_state_goes_through_a_checkpoint(self) -> None:
        """Another instance with the saved state draws the same."""
        amortizer, other = self._seeded(0).eval(), self._seeded(7).eval()
        other.load_state_dict(stored(dict(amortizer.state_dict())))
        draws = [part.sample(2, generator=generator_of(1)) for part in (amortizer, other)]
        assert torch.equal(*draws), "a loaded copy draws something else"

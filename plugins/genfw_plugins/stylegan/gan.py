"""Training a StyleGAN: the game of generator and discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from genfw import Batch, ContractError, OptimizerFactory, Stage, Updater
from genfw.models.freezing import frozen
from genfw.nn.precision import full
from genfw.plugins.validators import at_least, within
from genfw_plugins.stylegan.critic import Critic
from genfw_plugins.stylegan.decoder import StyleGANDecoder
from genfw_plugins.stylegan.prior import StyleGANPrior

#: Draws that the statistics of the styles are measured with at the end.
DRAWS = 16_384

#: Decay of the running mean of the styles, which truncation needs.
MEAN_DECAY = 0.995


@attrs.define(kw_only=True, eq=False, slots=False)
class GAN(Stage):
    r"""Train decoder 'stylegan' on images: the non-saturating game with a penalty on the discriminator's slope.

    With :math:`s(t) = \log(1 + e^t)` the discriminator descends :math:`\overline{s(D(g(z)))} + \overline{s(-D(x))} +
    \frac{\gamma}{2} \overline{|\nabla D(x)|^2}` and then the generator :math:`\overline{s(-D(g(z)))}`, with fresh noise
    in every layer. The penalty is taken every ``r1_every`` steps, so many times as heavy. At the end prior 'stylegan',
    where it is the model's, is given the mean and covariance of the mapping's styles.

    References: Goodfellow et al. 2014 (arXiv 1406.2661); Mescheder et al. 2018 (arXiv 1801.04406) for R1;
        StyleGAN (arXiv 1812.04948) section 3.1 for mixing; StyleGAN2 (arXiv 1912.04958) App. B for lazy penalties.

    Arguments:
        model: The composed model; its decoder is 'stylegan' with a mapping network.
        optimizer: How the generator's weights move.
        discriminator_optimizer: How the discriminator's move; its schedule is over ``steps``.
        channels_base: Channels of the discriminator's maps of a side are ``channels_base / side``,
        channels_max: but at most this.
        r1: :math:`\gamma`.
        r1_every: Steps from one penalty to the next.
        mixing: Share of images whose layers take one style up to a layer drawn by chance, and another after it.
        average: Decay of the average of the generator's weights that the stage leaves in the model; 0 keeps none.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "batch": 8, "channels_max": 4, "r1_every": 2}

    optimizer: OptimizerFactory
    discriminator_optimizer: OptimizerFactory
    channels_base: int = attrs.field(default=16_384, validator=at_least(1))
    channels_max: int = attrs.field(default=512, validator=at_least(1))
    r1: float = attrs.field(default=1.0, validator=at_least(0))
    r1_every: int = attrs.field(default=16, validator=at_least(1))
    mixing: float = attrs.field(default=0.9, validator=within(0, 1))
    average: float = attrs.field(default=0.999, validator=within(0, 1, "[)"))

    def __attrs_post_init__(self) -> None:
        decoder = self.model.decoder
        if not isinstance(decoder, StyleGANDecoder) or decoder.mapping is None:
            raise ContractError(
                "stage 'gan' trains decoder 'stylegan', with a mapping network (mapping_layers above 0)"
            )
        self.decoder, self.mapping = decoder, decoder.mapping

    def setup(self) -> None:
        channels, side, _ = self.decoder.data_shape
        with torch.random.fork_rng(devices=[]):
            # The lent generator is for training's draws; it decides this seed so that runs of other seeds differ.
            seed = int(torch.randint(2**31, (), generator=self.run.generator, device=self.run.device))
            if self.run.fabric.world_size > 1:  # each has a generator of its own, and all must begin with one critic
                seed = self.run.fabric.broadcast(seed)
            torch.default_generator.manual_seed(seed)
            self.critic = Critic(side, channels, self.channels_base, self.channels_max)
        self.critic.to(self.run.device, self.model.anchor.dtype)
        self._flags = [(parameter, parameter.requires_grad) for parameter in self.decoder.parameters()]
        self._train_all()
        self.register("critic", self.critic)
        updater = Updater([self.decoder], self.optimizer, self.run, self.steps, average=self.average)
        self.updater = self.register("updater", updater)
        critic_updater = Updater([self.critic], self.discriminator_optimizer, self.run, self.steps)
        self.critic_updater = self.register("critic_updater", critic_updater)

    def _train_all(self) -> None:
        """Let a decoder that is frozen for later stages be trained in this one; the features it may have are not."""
        for name, parameter in self.decoder.named_parameters():
            if not name.startswith("features."):
                parameter.requires_grad_(True)

    def _draw(self, count: int) -> Tensor:
        """Images of fresh latents and fresh noise, with graph."""
        generator, like, synthesis = self.run.generator, self.model.anchor, self.decoder.synthesis

        def fresh(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator, device=like.device, dtype=like.dtype)

        w, other = self.mapping(fresh(self.mapping.width)), self.mapping(fresh(self.mapping.width))
        with torch.no_grad():
            self.mapping.mean.lerp_(self.run.average(full(w).mean(0)), 1.0 - MEAN_DECAY)
        layers = synthesis.layer_count
        cut = torch.randint(1, layers, (count, 1), generator=generator, device=like.device)
        mixed = torch.rand(count, 1, generator=generator, device=like.device) < self.mixing
        second = (torch.arange(layers, device=like.device) >= cut) & mixed
        styles = torch.where(second[:, :, None], other[:, None], w[:, None])
        images: Tensor = synthesis(styles, [fresh(*shape) for shape in synthesis.noise_shapes])
        return images

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        self.decoder.train()
        self.critic.train()
        with torch.no_grad():
            fake = self._draw(len(batch))
        penalised = bool(self.r1) and step % self.r1_every == 0
        with self.run.fabric.autocast():
            x = batch.x.detach().requires_grad_(penalised)
            data, drawn = self.critic(x), self.critic(fake)
            loss = functional.softplus(drawn).mean() + functional.softplus(-data).mean()
            report = {"discriminator/loss": loss.detach(), "discriminator/data": data.detach().mean()}
            report["discriminator/drawn"] = drawn.detach().mean()
            if penalised:
                (slope,) = torch.autograd.grad(data.sum(), x, create_graph=True)
                penalty = slope.flatten(1).square().sum(1).mean()
                loss = loss + 0.5 * self.r1 * self.r1_every * penalty
                report["discriminator/r1"] = penalty.detach()
        self.critic_updater.update(loss, step)
        with self.run.fabric.autocast(), frozen(self.critic):
            loss = functional.softplus(-self.critic(self._draw(len(batch)))).mean()
        report["gradient"] = self.updater.update(loss, step)
        return report | {"loss": loss.detach()}

    def finish(self) -> None:
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        super().finish()
        if isinstance(self.model.prior, StyleGANPrior):
            generator = torch.Generator(self.model.anchor.device).manual_seed(0)
            self.model.prior.standardise(*self.mapping.statistics(DRAWS, generator))

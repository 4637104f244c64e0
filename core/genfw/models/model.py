r"""The parts of one model, composed: noise, latent, data, and the energies that tilt them.

The model is :math:`h(\epsilon) \propto e^{-\sum E}\, N(\epsilon; 0, I)` over the flat noise vector
:math:`\epsilon = (\epsilon_z, \epsilon_x)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces.amortizer import Amortizer
from genfw.interfaces.decoder import Decoder
from genfw.interfaces.encoder import Encoder
from genfw.interfaces.energy import Energy
from genfw.interfaces.likelihood import Likelihood
from genfw.interfaces.prior import Prior
from genfw.interfaces.values import Latent, NoiseLayout, Size
from genfw.models.freezing import frozen
from genfw.runs.pages.notebook import html_table


class Model(nn.Module):
    r"""A generator with energies on its data, on its latent, on both, or on neither.

    Arguments:
        prior: :math:`T_z`, from noise to latent; ``None`` for an energy on data alone.
        decoder: :math:`p(x \mid z)`.
        encoder: :math:`q(z \mid x)`.
        energy: One energy or several; the ``on`` of each says what it reads.
        amortizer: Learned sampler of noise positions.
        data_shape: Shape of one item, without batch; required without a decoder.
    """

    def __init__(
        self,
        prior: Prior | None = None,
        decoder: Decoder | None = None,
        encoder: Encoder | None = None,
        energy: Energy | Sequence[Energy] | None = None,
        amortizer: Amortizer | None = None,
        data_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if decoder is not None and prior is None:
            raise ContractError("a decoder needs a prior to draw its latents from")
        energies = [] if energy is None else [energy] if isinstance(energy, Energy) else list(energy)
        self.prior = prior
        self.decoder = decoder
        self.encoder = encoder
        self.energies = nn.ModuleList(energies)
        self.amortizer = amortizer
        self._data_shape: Size | None = None if data_shape is None else tuple(data_shape)

    @property
    def roles(self) -> dict[str, nn.Module]:
        """The parts by the names that recipes have for them: ``prior``, ``decoder``, ``energy.0``, ..."""
        parts: dict[str, nn.Module | None] = {"prior": self.prior, "decoder": self.decoder, "encoder": self.encoder}
        parts |= {f"energy.{index}": energy for index, energy in enumerate(self.energies)}
        parts["amortizer"] = self.amortizer
        return {role: part for role, part in parts.items() if part is not None}

    # -- what it shows of itself --------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, str]:
        facts = {}
        for role, part in self.roles.items():
            label = "energy" if role == "energy.0" and len(self.energies) == 1 else role
            count = sum(parameter.numel() for parameter in part.parameters())
            where = f" on {part.on}" if isinstance(part, Energy) else ""
            facts[label] = f"{type(part).__name__.lstrip('_')}{where}" + (f", {count:,} weights" if count else "")
        return facts

    def __repr__(self) -> str:
        return f"Model({'; '.join(f'{role}: {fact}' for role, fact in self._facts().items())})"

    def _repr_html_(self) -> str:
        return html_table("Model", self._facts().items())

    # -- layouts ------------------------------------------------------------------------------------------------------

    @property
    def data_shape(self) -> Size:
        """Shape of one item, without batch."""
        if self._data_shape is None and self.decoder is not None:
            with torch.no_grad(), frozen(self.prior, self.decoder):
                # Zero noise in eval mode uses no randomness and changes no batch statistics.
                noise = self.anchor.new_zeros(2, self.latent_layout.size)
                self._data_shape = tuple(self.likelihood(self.latent(noise)).mean.shape[1:])
        if self._data_shape is None:
            raise ContractError("a model without decoder needs its data_shape")
        return self._data_shape

    @property
    def anchor(self) -> Tensor:
        """An empty tensor with the model's dtype and device, for ``new_*`` methods."""
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter.detach().new_empty(0)
        return torch.empty(0)

    @property
    def latent_layout(self) -> NoiseLayout:
        """The groups ``z.0``, ``z.1``, ... of the prior's noise."""
        if self.prior is None:
            raise ContractError("this model has no prior, so no latent noise; its chains run in space 'data'")
        return NoiseLayout.of_latents(self.prior.noise_shapes)

    @property
    def noise_layout(self) -> NoiseLayout:
        """All noise of one sample: the latent groups and, where the decoder has its own noise, ``x``."""
        noise = None if self.decoder is None else self.decoder.noise_shape
        return NoiseLayout.of_latents([group.shape for group in self.latent_layout.groups], noise)

    # -- noise -> latent -> data --------------------------------------------------------------------------------------

    def latent(self, noise: Tensor, temperature: float = 1.0) -> Latent:
        r"""The latent :math:`z = T_z(\epsilon_z)` of flat ``noise``, with shape :math:`(B, D_z)`."""
        layout = self.latent_layout
        assert self.prior is not None  # latent_layout refuses a model without one
        blocks = layout.split(noise)
        return self.prior.transform([blocks[name] for name in layout.names], temperature)

    def likelihood(self, latent: Latent) -> Likelihood:
        r"""The density :math:`p(x \mid z)`."""
        if self.decoder is None:
            raise ContractError("this model has no decoder")
        likelihood: Likelihood = self.decoder(latent)
        return likelihood

    def decode(
        self,
        position: Tensor,
        temperature: float = 1.0,
        *,
        mean: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Map noise to data: :math:`x = T_x(T_z(\epsilon_z), \epsilon_x)`.

        Arguments:
            position: Positions over :attr:`noise_layout`, or over the latent groups alone, with shape :math:`(B, D)`.
            temperature: Factor on the scale of the latent groups.
            mean: Give the decoder's mean, without its noise.
            generator: Source of the decoder's noise where the position does not contain it.

        Returns:
            Data, with shape :math:`(B, *)`, differentiable in ``position``.
        """
        width = self.latent_layout.size
        likelihood = self.likelihood(self.latent(position[:, :width], temperature))
        if mean:
            return likelihood.mean
        noise = position[:, width:]
        if noise.shape[1] == 0 and likelihood.noise_shape is not None:
            return likelihood.sample(generator=generator)
        return likelihood.transform(noise.unflatten(1, likelihood.noise_shape or (0,)))

    # -- energies -----------------------------------------------------------------------------------------------------

    @property
    def data_energies(self) -> tuple[Energy, ...]:
        """Energies that read data."""
        return tuple(energy for energy in self.energies if isinstance(energy, Energy) and energy.on == "data")

    @property
    def latent_energies(self) -> tuple[Energy, ...]:
        """Energies that read the flat latent."""
        return tuple(energy for energy in self.energies if isinstance(energy, Energy) and energy.on == "latent")

    def data_energy(self, x: Tensor) -> Tensor:
        r"""Sum of the energies on data, with shape :math:`(B,)`; zero where there is none."""
        return _total(self.data_energies, x)

    def latent_energy(self, latent: Latent) -> Tensor:
        r"""Sum of the energies on the latent, with shape :math:`(B,)`; zero where there is none."""
        if not self.latent_energies:  # avoid copying all groups
            return latent.groups[0].new_zeros(len(latent))
        return _total(self.latent_energies, latent.flat())


def _total(energies: Sequence[Energy], v: Tensor) -> Tensor:
    total = v.new_zeros(v.shape[0])
    for energy in energies:
        value = energy(v)
        if value.shape != total.shape:
            raise ContractError(
                f"{type(energy).__name__} must return one number per item, shape ({v.shape[0]},), "
                f"got {tuple(value.shape)}"
            )
        total = total + value
    return total

"""The residual energy on images: VAEBM's four networks and their like, from one list of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from genfw import ContractError, Energy, Size
from genfw.nn.manual_grad import closed_form
from genfw.nn.precision import ChainPrecision, apply_in_full, chain_dtype
from genfw.nn.spectral import SpectralPenalty
from genfw.plugins.validators import at_least, positive
from genfw_plugins.resnet_energy.for_chain import StillEnergy
from genfw_plugins.resnet_energy.network import Activation, Norm, NormedConv, ResBlock, activate

Preset = Literal["cifar10", "celeba64", "lsun64", "celebahq256"]

#: Channels of the first convolution, and the blocks, of VAEBM Table 7.
PRESETS: Mapping[str, tuple[int, tuple[int | str, ...]]] = {
    "cifar10": (128, ("down 128", 128, "down 256", 256, "down 256", 256)),
    "celeba64": (64, ("down 64", 64, "down 128", 128, "down 128", 256, "down 256", 256)),
    "lsun64": (64, ("down 64", 64, "down 128", 128, 128, "down 128", 256, 256, "down 256", 256)),
    "celebahq256": (
        64,
        ("down 64", 64, "down 128", 128, "down 128", 128, "down 256", 256, "down 256", 256, "down 512", 512),
    ),
}


def read_block(block: int | str) -> tuple[int, bool]:
    """Channels of a block as a recipe writes it, and whether it halves the image: ``128``, or ``down 128``."""
    down, _, width = str(block).rpartition(" ")
    if down.strip() not in ("", "down") or not width.isdecimal() or int(width) < 1:
        raise ContractError(f"a block is written as its channels, 128, or 'down 128' where it halves; got '{block}'")
    return int(width), bool(down)


class ResNetEnergy(Energy):
    r"""Residual network whose features are summed over the image, :math:`E(x) = w \cdot \sum_{ij} h_{ij}(x) + b`.

    VAEBM's has Swish and weight norm, its lengths and biases set by the first data that it sees; IGEBM's has
    ``activation: leaky-relu`` and ``norm: spectral``.

    References: VAEBM (arXiv 2010.00654) Table 7 and App. E; Du & Mordatch 2019 (arXiv 1903.08689).

    Arguments:
        data_shape: Channels, height and width of one image.
        preset: One of the four networks of VAEBM's Table 7, named after the data it was trained on there.
        blocks: Channels of each residual block instead of the preset's, ``down 128`` where the block halves the image.
        stem: Channels of the first convolution; the preset's, or those of the first block, where absent.
        width: Factor on all channels.
        activation: ``swish`` is divided by 1.1; ``leaky-relu`` has slope 0.2.
        norm: ``weight`` (with data-dependent initialisation), ``spectral`` or ``none``.
        batch_norm: Batch norms in the blocks beside the norm of the weights, as the critic of VAEBM's WGAN has; not
            with weight norm, whose initialisation does their work.
        input_range: Range of numbers the network is given: images in :math:`[-1, 1]` are mapped onto it.
        clamp: Cut what exceeds :math:`[-1, 1]` off first, as VAEBM does with pixels that were generated.
        init_scale: Standard deviation that the data-dependent initialisation gives every layer's output.
        spectral_iterations: Power iterations per training step for :meth:`penalty`; 0 offers none.
        chain_precision: What feature maps are computed in inside chains; sums over the image, the last layer and
            energies stay in the model's. ``bf16`` pays where the processor multiplies in it, and bends gradients by
            2 to 3 %.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"width": 0.0625}
    initialised: Tensor

    def __init__(
        self,
        data_shape: Size,
        preset: Preset = "cifar10",
        blocks: list[int | str] | None = None,
        stem: int | None = None,
        width: float = 1.0,
        activation: Activation = "swish",
        norm: Norm = "weight",
        batch_norm: bool = False,
        input_range: tuple[float, float] = (0.0, 1.0),
        clamp: bool = False,
        init_scale: float = 0.2,
        spectral_iterations: int = 4,
        chain_precision: ChainPrecision = "model",
    ) -> None:
        super().__init__()
        if len(data_shape) != 3:
            raise ContractError(f"a residual energy reads images (channels, height, width); the data are {data_shape}")
        first, layout = PRESETS[preset]
        plan = [read_block(block) for block in (layout if blocks is None else blocks)]
        if not plan:
            raise ContractError("a residual energy needs at least one block")
        positive.check(width=width, init_scale=init_scale)
        at_least(0).check(spectral_iterations=spectral_iterations)
        if batch_norm and norm == "weight":
            raise ContractError("batch_norm goes with norm 'spectral' or 'none'; weight norm is set by the data itself")
        halvings = sum(down for _, down in plan)
        if min(data_shape[1:]) >> halvings < 1:
            raise ContractError(
                f"images of {data_shape[1]}x{data_shape[2]} can't be halved {halvings} times; name fewer 'down' blocks"
            )
        self.low, self.high = input_range
        self.clamp, self.init_scale = clamp, init_scale
        self.act = activate(activation)
        before = _scaled(stem or (first if blocks is None else plan[0][0]), width)
        self.stem = NormedConv(data_shape[0], before, 3, norm)
        self.blocks = nn.ModuleList()
        for channels, down in plan:
            after = _scaled(channels, width)
            self.blocks.append(ResBlock(before, after, down, activation, norm, batch_norm))
            before = after
        self.head = nn.Linear(before, 1)
        self.register_buffer("initialised", torch.tensor(norm != "weight"))
        convolutions = [part for part in self.modules() if isinstance(part, NormedConv)]
        self.spectral = SpectralPenalty(convolutions, spectral_iterations) if spectral_iterations else None
        self.chain_precision: ChainPrecision = chain_precision
        self._activation, self._size = activation, (data_shape[1], data_shape[2])
        self._still: StillEnergy | None = None

    def forward(self, v: Tensor) -> Tensor:
        x = self._input(v)
        if self._still is not None:
            return closed_form(self._still, x)
        h = self.act(self.stem(x))
        for block in self.blocks:
            h = block(h)
        return apply_in_full(lambda features: self.head(features.sum(dim=(2, 3))), h).squeeze(1)

    @contextmanager
    def for_chain(self) -> Iterator[None]:
        """See :meth:`Energy.for_chain`: what :class:`StillEnergy` makes of the weights of now."""
        before = self._still
        try:
            if before is None:
                blocks = [cast(ResBlock, block) for block in self.blocks]
                dtype = chain_dtype(self.chain_precision, self)
                self._still = StillEnergy(self.stem, blocks, self.head, self._activation, self._size, dtype)
            yield
        finally:
            self._still = before

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set lengths and biases of the weight-normed layers by data; once, and only where there are such layers."""
        if self.initialised:
            return
        h = self.act(self.stem.initialise(self._input(x), self.init_scale))
        for block in self.blocks:
            h = cast(ResBlock, block).initialise(h, self.init_scale)
        self.initialised.fill_(True)

    def penalty(self) -> Tensor | None:
        """Sum of the convolutions' spectral norms, as they are after normalisation."""
        return None if self.spectral is None else self.spectral()

    def _input(self, v: Tensor) -> Tensor:
        x = v.clamp(-1.0, 1.0) if self.clamp else v
        return self.low + (x + 1.0) * (0.5 * (self.high - self.low))


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))

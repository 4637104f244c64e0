"""Convolutional decoder with a Gaussian likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from genfw import ContractError, Decoder, Gaussian, Latent, NoiseLayout, Size
from genfw.nn.manual_grad import closed_form
from genfw.nn.precision import ChainPrecision, chain_dtype
from genfw.plugins.validators import positive
from genfw_plugins.dcgan.for_chain import StillGenerator
from genfw_plugins.dcgan.network import generator, generator_side
from genfw_plugins.dcgan.presets import PRESETS, Architecture, Last


class DCGANDecoder(Decoder):
    r"""Transposed-convolution generator, :math:`p(x \mid z) = N(x; g(z), \sigma^2 I)`, means in [-1, 1].

    Its sizes come from ``architecture``, or from ``start``, ``factors`` and ``last``: a first map of side ``start``,
    doubled by every further layer. An argument that is given goes before the preset's.

    References:
        DAMC (arXiv 2310.03218), Table S2; LEBM (arXiv 2006.08205); DCGAN (arXiv 1511.06434).

    Arguments:
        data_shape: Shape of one item, :math:`C, H, W`; square.
        latent_layout: The prior's groups; the decoder reads them flat.
        architecture: One of the papers' networks.
        width: Factor on the channels of every hidden layer (the papers' ngf); 64 where neither it nor an architecture
            is given.
        sigma: Standard deviation :math:`\sigma` of a pixel. The published code takes 0.1, and 1 on CelebA-HQ and MNIST.
        start: Side of the first feature map.
        factors: Channels of the hidden layers, in multiples of ``width``.
        last: Whether the last layer doubles the side (``up``, the default) or keeps it (``same``).
        chain_precision: What feature maps are computed in inside chains; latents, images and likelihoods stay in the
            model's. ``bf16`` pays where the processor multiplies in it, and bends gradients by 4 to 5 %.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"width": 4}

    def __init__(
        self,
        data_shape: Size,
        latent_layout: NoiseLayout,
        architecture: Architecture | None = None,
        width: int | None = None,
        sigma: float = 0.1,
        start: int | None = None,
        factors: tuple[int, ...] | None = None,
        last: Last | None = None,
        chain_precision: ChainPrecision = "model",
    ) -> None:
        super().__init__()
        positive.check(sigma=sigma)
        preset = PRESETS[architecture] if architecture is not None else None
        if preset is not None:
            width, start = width or preset.width, start or preset.start
            factors, last = factors or preset.factors, last or preset.last
        if start is None or factors is None:
            raise ContractError(f"give architecture (one of {', '.join(PRESETS)}), or start and factors")
        width, last = 64 if width is None else width, last or "up"
        self.data_shape, self.sigma = tuple(data_shape), sigma
        self.net = generator(latent_layout.size, self.data_shape[0], width, start, factors, last)
        side = generator_side(start, factors, last)
        if self.data_shape[1:] != (side, side):
            raise ContractError(
                f"these layers make images of {side}x{side}, and an item of the data has shape {self.data_shape}; "
                "choose another architecture, or start and factors with start * 2^(number of factors) = side"
            )
        self.chain_precision: ChainPrecision = chain_precision
        self._still: StillGenerator | None = None

    @property
    def noise_shape(self) -> Size | None:
        """See :attr:`Decoder.noise_shape`."""
        return self.data_shape

    def forward(self, latent: Latent) -> Gaussian:
        z = latent.flat()
        return Gaussian(self.net(z) if self._still is None else closed_form(self._still, z), self.sigma)

    @contextmanager
    def for_chain(self) -> Iterator[None]:
        """See :meth:`Decoder.for_chain`: weights are laid out for the chain, and the gradient is written by hand."""
        before, self._still = self._still, StillGenerator(self.net, chain_dtype(self.chain_precision, self))
        try:
            yield
        finally:
            self._still = before

"""StyleGAN's generators as decoders."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as MappingABC
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genfw import ContractError, Decoder, Deterministic, Gaussian, Latent, Likelihood, NoiseLayout, Size
from genfw.plugins.validators import at_least, positive
from genfw.weights.load import load_into
from genfw_plugins.stylegan.features import Features
from genfw_plugins.stylegan.layers import Mapping
from genfw_plugins.stylegan.modulated import Synthesis2
from genfw_plugins.stylegan.perceptual import Perceptual
from genfw_plugins.stylegan.synthesis import Synthesis

Generation = Literal["stylegan", "stylegan2-skip", "stylegan2-resnet"]


class StyleGANDecoder(Decoder):
    r"""Generator of StyleGAN or StyleGAN2, :math:`p(x \mid w) = N(x; g(w), \sigma^2 I)`, or a point at :math:`g(w)`.

    The latent's first group holds styles or what is mapped to one; further groups, where there are any, the noise of
    each layer (prior 'stylegan' with ``noise``), which is constant otherwise. Images are not cut to [-1, 1].

    References:
        StyleGAN (arXiv 1812.04948); StyleGAN2 (arXiv 1912.04958); DAMC (arXiv 2310.03218) App. D for inversion.

    Arguments:
        data_shape: Shape of one image, :math:`C, H, H`; the side is a power of two.
        latent_layout: The prior's groups.
        architecture: Generation, and how StyleGAN2 makes its image.
        space: What the latent is: ``w+`` (a style per layer, :math:`(L, d)`), ``w`` (one style, :math:`(d)`) or ``z``
            (:math:`(d)`, which the mapping network makes a style of).
        channels_base: Channels of the maps of a side are ``channels_base / side``,
        channels_max: but at most this. The published ones: 16384 and 512 for StyleGAN, 32768 and 512 for StyleGAN2.
        mapping_layers: Layers of the mapping network; 0 for none, in the spaces of styles.
        sigma: Standard deviation :math:`\sigma` of a pixel; absent, there is no noise and no density.
        perceptual: A term of features in the likelihood.
        truncation: Factor on a mapped style's distance from the mean, in space ``z``; prior 'stylegan' has its own.
        truncation_layers: Layers, from the coarsest on, that it is for; all where absent.
        frozen: Whether the weights stay as they are in every stage but 'gan'.
        lod: Last doublings to leave out, for a StyleGAN from the middle of its training; see
            :class:`~genfw_plugins.stylegan.synthesis.Synthesis`.
        weights: What ``genfw import stylegan`` has written.
    """

    smoke: ClassVar[MappingABC[str, Any]] = {"channels_max": 1, "mapping_layers": 2, "weights": None}
    psi: Tensor

    def __init__(
        self,
        data_shape: Size,
        latent_layout: NoiseLayout,
        architecture: Generation = "stylegan",
        space: Literal["w+", "w", "z"] = "w+",
        channels_base: int = 16_384,
        channels_max: int = 512,
        mapping_layers: int = 8,
        sigma: float | None = 0.1,
        perceptual: Features | None = None,
        truncation: float = 1.0,
        truncation_layers: int | None = None,
        frozen: bool = False,
        lod: int = 0,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if len(data_shape) != 3 or data_shape[1] != data_shape[2]:
            raise ContractError(f"decoder 'stylegan' makes square images (C, H, H); the data have {tuple(data_shape)}")
        at_least(1).check(channels_base=channels_base, channels_max=channels_max)
        at_least(0).check(mapping_layers=mapping_layers, lod=lod)
        positive.check(sigma=sigma)
        if perceptual is not None and sigma is None:
            raise ContractError("perceptual weighs features against pixels, so it needs sigma")
        if space == "z" and not mapping_layers:
            raise ContractError("space 'z' needs the mapping network: mapping_layers is at least 1")
        if lod and architecture != "stylegan":
            raise ContractError("lod is for architecture 'stylegan', which is trained side by side")
        self.data_shape, self.space, self.sigma = tuple(data_shape), space, sigma
        first, *planes = latent_layout.groups
        width = first.shape[-1]
        channels, side, _ = self.data_shape
        sizes = (side, channels, width, channels_base, channels_max)
        if architecture == "stylegan":
            self.synthesis: Synthesis | Synthesis2 = Synthesis(*sizes, lod)
        else:
            self.synthesis = Synthesis2(*sizes, "skip" if architecture == "stylegan2-skip" else "resnet")
        wanted = (self.synthesis.layer_count, width) if space == "w+" else (width,)
        shapes = tuple(plane.shape for plane in planes)
        if first.shape != wanted or (shapes and shapes != self.synthesis.noise_shapes):
            noise = "its noise is none of the layers'" if first.shape == wanted else "prior 'stylegan' makes W+ and W"
            raise ContractError(
                f"in space '{space}' the latent has shape {wanted}, and noise for each layer or none; the prior's has "
                f"{first.shape} and {len(shapes)} groups of noise: {noise}"
            )
        self.mapping = Mapping(width, mapping_layers) if mapping_layers else None
        psi = torch.ones(self.synthesis.layer_count, 1)
        psi[:truncation_layers] = truncation
        self.register_buffer("psi", psi, persistent=False)
        # Before the features, which are in no file.
        if weights is not None:
            load_into(self, weights)
        self.features = None if perceptual is None else perceptual.build()
        self.feature_weight = 0.0 if perceptual is None else perceptual.weight
        if frozen:
            self.requires_grad_(False)

    @property
    def noise_shape(self) -> Size | None:
        """See :attr:`Decoder.noise_shape`."""
        return None if self.sigma is None or self.features is not None else self.data_shape

    def styles(self, latent: Tensor) -> Tensor:
        r"""A style for each layer, :math:`(B, L, d)`, of the latent's first group."""
        if self.space == "w+":
            return latent
        if self.space == "w":
            return latent[:, None].expand(-1, self.synthesis.layer_count, -1)
        assert self.mapping is not None  # refused in __init__
        mean = self.mapping.mean
        styles: Tensor = mean + self.psi * (self.mapping(latent)[:, None] - mean)
        return styles

    def image(self, latent: Latent) -> Tensor:
        r""":math:`g(w)`, with shape :math:`(B, C, H, H)`."""
        first, *planes = latent.groups
        image: Tensor = self.synthesis(self.styles(first), planes or None)
        return image

    @contextmanager
    def for_chain(self) -> Iterator[None]:
        with self.synthesis.prepared():
            yield

    def forward(self, latent: Latent) -> Likelihood:
        image = self.image(latent)
        if self.sigma is None:
            return Deterministic(image)
        if self.features is None:
            return Gaussian(image, self.sigma)
        return Perceptual(image, self.sigma, self.features, self.feature_weight)

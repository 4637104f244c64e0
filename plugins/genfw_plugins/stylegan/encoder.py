"""From an image to the styles that a StyleGAN makes it of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from genfw import ContractError, NormalEncoder, Prior, Size
from genfw.plugins.validators import at_least, positive
from genfw.weights.load import load_into
from genfw_plugins.stylegan.inspector import Inspector
from genfw_plugins.stylegan.prior import StyleGANPrior


class StyleGANEncoder(NormalEncoder):
    r"""Styles of an image, :math:`w = f(x)`, and a normal around them in the prior's noise.

    The posterior is :math:`q(\epsilon_z \mid x) = N(T_z^{-1}(f(x)), s^2)` with one learned scale :math:`s` for every
    number of the styles, the same for all images; at temperature 0 it is the published encoder. With ``embedding`` it
    is a description of that length for an amortizer, and there is no posterior.

    References:
        Zhu et al. 2020, in-domain GAN inversion (arXiv 2004.00049); DAMC (arXiv 2310.03218) App. D.

    Arguments:
        data_shape: Shape of one image, :math:`C, H, H`.
        prior: The model's prior, a 'stylegan' one; a posterior needs it.
        channels_base: Channels of the first maps, doubled in every block,
        channels_max: and the most there are.
        scale: What every :math:`s` begins with.
        embedding: Length of the description; absent, the encoder is a posterior.
        weights: What ``genfw import stylegan`` has written, if an encoder was in the file.
        frozen: Whether the weights, and the statistics of batch norms, stay as they are in every stage. As the encoder
            of an amortizer it then describes an image by its whitened styles, as DAMC's published inversion does.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"channels_base": 1, "channels_max": 2, "weights": None}

    def __init__(
        self,
        data_shape: Size,
        prior: Prior | None = None,
        channels_base: int = 64,
        channels_max: int = 1_024,
        scale: float = 0.1,
        embedding: int | None = None,
        weights: Path | None = None,
        frozen: bool = False,
    ) -> None:
        if len(data_shape) != 3 or data_shape[1] != data_shape[2]:
            raise ContractError(f"encoder 'stylegan' reads square images (C, H, H), not {tuple(data_shape)}")
        at_least(1).check(channels_base=channels_base, channels_max=channels_max)
        positive.check(scale=scale)
        if embedding is not None:
            prior, outputs = None, embedding
        elif isinstance(prior, StyleGANPrior):
            outputs = math.prod(prior.noise_shapes[0])
        else:
            raise ContractError(
                "encoder 'stylegan' gives styles of prior 'stylegan', or with embedding a description; the prior is "
                f"{'absent' if prior is None else f'a {type(prior).__name__}'}"
            )
        super().__init__(prior)
        channels, side, _ = data_shape
        self.net = Inspector(side, channels, channels_base, channels_max, outputs)
        self.log_scale = None if prior is None else nn.Parameter(torch.full((outputs,), math.log(scale)))
        if weights is not None:
            load_into(self, weights)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> StyleGANEncoder:
        """Change the mode; a frozen encoder stays in eval mode."""
        super().train(mode and not self.frozen)
        return self

    def read(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def styles(self, x: Tensor) -> Tensor:
        """Styles of images, shaped like the prior's.

        Raises:
            ContractError: The encoder was made with ``embedding``.
        """
        return self.read(x).reshape(len(x), *self.prior.noise_shapes[0])

    def law(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.prior, StyleGANPrior)  # no other is accepted
        mean = self.prior.inverse(self.styles(x))
        assert self.log_scale is not None  # there is one wherever there is a prior
        # Of the generator's noise, where it is in the latent, x says nothing here: it stays standard normal.
        return mean, functional.pad(self.log_scale, (0, mean.shape[1] - len(self.log_scale))).expand_as(mean)

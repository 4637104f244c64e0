"""The tilt of a model: one number per item."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor

from genfw.interfaces.network import ChainedNetwork


class Energy(ChainedNetwork):
    r"""Energy :math:`E(v)` over latents or data: low where samples should lie, :math:`h \propto p\, e^{-E}`.

    A subclass guarantees one number per item, differentiable in ``v``, that does not depend on the other items of the
    batch in eval mode. Under autocast its end is still computed in full precision
    (:func:`genfw.nn.precision.apply_in_full`), since losses take small differences of large energies. It need not be
    normalised, and genfw does not check that :math:`e^{-E}` has a finite integral.
    """

    #: What the energy reads: data :math:`(B, *)`, or the flat latent :math:`(B, d)`.
    on: Literal["data", "latent"] = "data"

    @abc.abstractmethod
    def forward(self, v: Tensor) -> Tensor:
        r"""
        Score a batch.

        Arguments:
            v: Points :math:`v`, with shape :math:`(B, *)`.

        Returns:
            Energies :math:`E(v)` in nats, with shape :math:`(B,)`.
        """

    def value_and_grad(self, v: Tensor) -> tuple[Tensor, Tensor]:
        r"""Energies :math:`(B,)` and their gradient :math:`(B, *)` in ``v``, both without graph.

        By autograd; override it where a closed form is cheaper.
        """
        with torch.enable_grad():
            v = v.detach().requires_grad_(True)
            energy: Tensor = self(v)
            (gradient,) = torch.autograd.grad(energy.sum(), v)
        return energy.detach(), gradient

    def initialise(self, x: Tensor) -> None:
        """Set weights from data (lengths of a weight norm), once, before the first step; nothing by default.

        A stage that trains the energy calls it with the same rows in every process. A subclass that overrides it notes
        in a buffer that it is done, so that no further stage and no resumed run repeats it.

        Arguments:
            x: Rows that the energy will be trained on, with shape :math:`(B, *)`.
        """

"""Fully connected energy, on data or on the latent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from genfw import ContractError, Energy, NoiseLayout, Size
from genfw.nn.layers import Activation, mlp
from genfw.nn.manual_grad import MLPByHand, Pullback, closed_form
from genfw.nn.precision import apply_in_full
from genfw.nn.spectral import SpectralPenalty


class MLPEnergy(Energy):
    r"""Fully connected energy :math:`E(v)`; DAMC Table S1 on a latent, VAEBM section 5.4 on 2-D data.

    Arguments:
        on: ``data`` or ``latent``; either is read flat.
        data_shape: Shape of one item.
        latent_layout: The prior's groups, where there is a prior.
        hidden: Width of each hidden layer.
        activation: Between the layers.
        input_scale: Factor on the input, for data whose structure is finer than its unit.
        spectral_iterations: Power iterations per training step for :meth:`penalty`; 0 offers none.
    """

    def __init__(
        self,
        data_shape: Size | None = None,
        latent_layout: NoiseLayout | None = None,
        on: Literal["data", "latent"] = "data",
        hidden: tuple[int, ...] = (200, 200),
        activation: Activation = "silu",
        input_scale: float = 1.0,
        spectral_iterations: int = 0,
    ) -> None:
        super().__init__()
        if on == "latent":
            if latent_layout is None:
                raise ContractError("an energy on the latent needs a prior")
            size = latent_layout.size
        elif data_shape is None:
            raise ContractError("an energy on data needs to know the data's shape")
        else:
            size = math.prod(data_shape)
        self.on = on
        self.input_scale = input_scale
        self.net = mlp(size, hidden, 1, activation)
        self.spectral = (
            SpectralPenalty([part for part in self.net if isinstance(part, nn.Linear)], spectral_iterations)
            if spectral_iterations
            else None
        )
        self._prepared: MLPByHand | None = None

    def forward(self, v: Tensor) -> Tensor:
        if self._prepared is not None:
            return closed_form(self._by_hand, v)
        h = self.input_scale * v.flatten(1)
        *layers, head = self.net
        for layer in layers:
            h = layer(h)
        return apply_in_full(head, h).squeeze(1)

    def value_and_grad(self, v: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            energy, pullback = self._by_hand(v)
            return energy, pullback(torch.ones_like(energy))

    def _by_hand(self, v: Tensor) -> tuple[Tensor, Pullback]:
        scale = self.input_scale
        flat = v.flatten(1) if scale == 1.0 else scale * v.flatten(1)
        # Outside a chain the weights may have moved since the last call.
        energy, pull = (self._prepared or MLPByHand(self.net))(flat)

        def pullback(gradient: Tensor) -> Tensor:
            slope = pull(gradient[:, None])
            return (slope if scale == 1.0 else slope.mul_(scale)).view_as(v)

        return energy.squeeze(1), pullback

    @contextmanager
    def for_chain(self) -> Iterator[None]:
        """See :meth:`Energy.for_chain`: the gradient is computed in closed form."""
        before, self._prepared = self._prepared, MLPByHand(self.net)
        try:
            yield
        finally:
            self._prepared = before

    def penalty(self) -> Tensor | None:
        """Sum of the layers' spectral norms, where ``spectral_iterations`` asks for it."""
        return None if self.spectral is None else self.spectral()

r"""The largest singular value of many layers at once, by power iteration whose vectors are part of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _own_weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _follow(vectors: Tensor, product: Tensor) -> None:
    """Point ``vectors`` where ``product`` points. One that is zero or not finite points nowhere, and its vector stays:
    a weight that was zero or NaN for a step does not end the iteration.
    """
    unit = F.normalize(product, dim=1)
    vectors.copy_(torch.where(unit.square().sum(1, keepdim=True) > 0.5, unit, vectors))


class SpectralPenalty(nn.Module):
    r"""Sum of spectral norms, :math:`\sum_l \sigma_{\max}(W_l)`, each weight as a matrix (outputs, everything else).

    Layers of one shape are iterated together as one batch. The left and right vectors are buffers, so a resumed run
    continues from them. References: Yoshida & Miyato 2017, "Spectral Norm Regularization"; NVAE section 3.2.

    Arguments:
        layers: Layers with a ``weight``. They stay children of their own module, not of this one.
        iterations: Power iterations per call, in training mode.
        warm_up: Power iterations of the first call.
        weight_of: Gives a layer's matrix, where its ``weight`` is computed from other parameters.
    """

    started: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        iterations: int = 4,
        warm_up: int = 40,
        weight_of: Callable[[nn.Module], Tensor] = _own_weight,
    ) -> None:
        super().__init__()
        self._layers: tuple[nn.Module, ...] = tuple(layers)  # a tuple: nn.Module registers none of them a second time
        self.iterations, self.warm_up = iterations, warm_up
        self._weight_of: Callable[[nn.Module], Tensor] = weight_of
        shapes = [tuple(weight_of(layer).flatten(1).shape) for layer in self._layers]
        self._shapes = sorted(set(shapes))
        self._members = [[i for i, s in enumerate(shapes) if s == shape] for shape in self._shapes]
        for index, (shape, members) in enumerate(zip(self._shapes, self._members, strict=True)):
            generator = torch.Generator().manual_seed(index)
            u = torch.randn(len(members), shape[0], generator=generator)
            v = torch.randn(len(members), shape[1], generator=generator)
            self.register_buffer(f"u_{index}", F.normalize(u, dim=1))
            self.register_buffer(f"v_{index}", F.normalize(v, dim=1))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._warm = False

    def forward(self) -> Tensor:
        """The sum of the largest singular values, 0-dim, differentiable in the weights and in their precision."""
        with torch.autocast(self.started.device.type, enabled=False):
            return self._sum()

    def _sum(self) -> Tensor:
        if not self._warm:  # waits for the device once, not at every step
            self._warm = bool(self.started)
        iterations = (self.iterations if self.training else 0) if self._warm else self.warm_up
        total = None
        for index, members in enumerate(self._members):
            weights = torch.stack([self._weight_of(self._layers[i]).flatten(1) for i in members])
            u, v = getattr(self, f"u_{index}"), getattr(self, f"v_{index}")
            with torch.no_grad():
                for _ in range(iterations):
                    # Not einsum, which takes twice as long for them on the CPU.
                    _follow(v, (u[:, None] @ weights).squeeze(1))
                    _follow(u, (weights @ v[:, :, None]).squeeze(2))
            # Clones: the next call's iterations must not change what this call's backward reads.
            sigma = (u.clone()[:, None] @ weights @ v.clone()[:, :, None]).sum()
            total = sigma if total is None else total + sigma
        with torch.no_grad():
            self.started.fill_(True)
        return torch.zeros(()) if total is None else total

"""Begin in fresh draws of the base."""

from __future__ import annotations

from torch import Tensor

from genfw.interfaces import Start, StartRequest
from genfw.models.freezing import frozen


class NoiseStart(Start):
    """Fresh draws of the target's base: standard-normal noise, draws of the generator in space ``joint``, uniform on
    [-1, 1] in space ``data``.
    """

    def draw(self, request: StartRequest) -> Tensor:
        with frozen(*request.target.modules()):  # in space joint networks draw, as chains see them
            return request.target.draw_base(request.count, request.generator)


def or_noise(start: Start | None) -> Start:
    """The start, or fresh draws of the base where there is none."""
    return NoiseStart() if start is None else start

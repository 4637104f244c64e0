r"""Which of several ways to compute one thing: a fixed rule, or the way that was fastest when it was timed once.

A convolution of a chain can be done by torch's own, by Winograd's transforms, or as a product of matrices. Which is
fastest depends on the processor, the shapes and the precision. The rules that plugins state were measured on one
processor. Inside a block of ``choosing`` the ways are timed instead, at the first call with each shape.

The ways differ in their last digits, and the clock may decide otherwise the next time. So choices are a table that a
run writes down and reads when it is resumed: what was timed once is never timed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genfw.nn.held import Held
from genfw.nn.manual_grad import ByHand, Pullback

#: Rounds in which the ways are timed, one after the other; the least time of each counts.
_ROUNDS = 3


class Choices:
    """Which way each piece of work is done in.

    Arguments:
        table: Name of the way by a description of the work; see :meth:`way`.
        keep: Called with the whole table after every new choice.
        times: Whether work that is not in the table is timed; otherwise it is done in the way of the fixed rule.
    """

    def __init__(
        self,
        table: Mapping[str, str] | None = None,
        keep: Callable[[dict[str, str]], None] = lambda table: None,
        times: bool = True,
    ) -> None:
        self.table, self._keep, self._times = dict(table or {}), keep, times

    def way(self, work: str, ways: Mapping[str, Callable[[], ByHand]], rule: str, h: Tensor) -> str:
        """Name of the way for a piece of work and an input; timed where the table does not have it.

        Arguments:
            work: The work with all its sizes, such as ``conv 3x3 64-64``.
            ways: Makes each way, by its name.
            rule: The way that the fixed rule takes.
            h: The input.
        """
        key = f"{work}, input {'x'.join(map(str, h.shape))} {str(h.dtype).removeprefix('torch.')}"
        if self.table.get(key) not in ways:
            if not self._times:
                return rule
            self.table[key] = _fastest(ways, h)
            self._keep(self.table)
        return self.table[key]


def _fastest(ways: Mapping[str, Callable[[], ByHand]], h: Tensor) -> str:
    """The way with the least time for a call and its pull-back."""
    made = {name: make() for name, make in ways.items()}
    seconds = dict.fromkeys(made, float("inf"))
    for turn in range(_ROUNDS + 1):
        for name, function in made.items():
            began = time.process_time()  # a shared machine's load falls on all alike
            out, pullback = function(h)
            pullback(torch.ones_like(out))
            if turn:  # libraries set themselves up at the first call
                seconds[name] = min(seconds[name], time.process_time() - began)
    return min(seconds, key=lambda name: seconds[name])


#: Inside ``with choosing(choices)`` ways are chosen by ``choices``; by their fixed rules where that is ``None``.
choosing: Held[Choices] = Held()


def chosen(work: str, ways: Mapping[str, Callable[[], ByHand]], rule: str | Callable[[Tensor], str]) -> ByHand:
    """The way that the fixed rule takes; inside ``choosing``, the one chosen for the shape of each input.

    Arguments:
        work: See :meth:`Choices.way`.
        ways: See there.
        rule: See there; it may depend on the input.
    """
    choices = choosing.value
    if isinstance(rule, str) and (choices is None or len(ways) == 1):
        return ways[rule]()
    made: dict[str, ByHand] = {}

    def forward(h: Tensor) -> tuple[Tensor, Pullback]:
        name = rule if isinstance(rule, str) else rule(h)
        if choices is not None:
            name = choices.way(work, ways, name, h)
        if name not in made:
            made[name] = ways[name]()
        return made[name](h)

    return forward

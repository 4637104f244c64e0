"""The values that all parts exchange.

Shape legend: ``B`` items in a batch, ``D`` size of a position (the flat noise vector), ``d`` size of a flat
latent, ``G`` latent groups, ``C, H, W`` channels, height and width of an image. Images are in [-1, 1] everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from genfw.errors import ContractError

#: Shape of one item, without the batch dimension.
Size = tuple[int, ...]

#: Nested dicts and lists of tensors and JSON scalars: what a checkpoint can hold. Of a :class:`Volatile` it holds none.
StateTree = dict[str, Any]


@attrs.frozen(eq=False)
class Volatile:
    """A part of a state that is put back after an evaluation, but written to no checkpoint: ``None`` is read there.

    Arguments:
        value: The part.
    """

    value: Any


def _size(shape: Iterable[int]) -> Size:
    return tuple(shape)


@attrs.frozen
class NoiseGroup:
    """One named block of the noise vector, ``shape`` without batch."""

    name: str
    shape: Size = attrs.field(converter=_size)

    @property
    def size(self) -> int:
        """Count of numbers in the block."""
        return math.prod(self.shape)


def _groups(groups: Iterable[NoiseGroup]) -> tuple[NoiseGroup, ...]:
    return tuple(groups)


@attrs.frozen
class NoiseLayout:
    r"""Which slice of a flat position :math:`(B, D)` belongs to which group.

    Groups are named ``z.0``, ``z.1``, ... for the latent groups and ``x`` for the noise of the decoder; targets in
    other spaces name theirs likewise (``x`` alone in data space).

    Arguments:
        groups: The groups, in the order in which they lie in the vector.
    """

    groups: tuple[NoiseGroup, ...] = attrs.field(converter=_groups)

    @classmethod
    def of(cls, **shapes: Sequence[int]) -> NoiseLayout:
        """Build a layout from ``name=shape`` pairs, in order."""
        return cls(tuple(NoiseGroup(name, tuple(shape)) for name, shape in shapes.items()))

    @classmethod
    def of_latents(cls, shapes: Iterable[Sequence[int]], x: Sequence[int] | None = None) -> NoiseLayout:
        """The noise of a prior, groups ``z.0``, ``z.1``, ..., and of the decoder that reads it.

        Arguments:
            shapes: Shape of each group of the prior, as :attr:`~genfw.Prior.noise_shapes` has them.
            x: Shape of the decoder's own noise, group ``x``; ``None`` where it has none.
        """
        groups = [NoiseGroup(f"z.{index}", tuple(shape)) for index, shape in enumerate(shapes)]
        return cls((*groups, *([] if x is None else [NoiseGroup("x", tuple(x))])))

    @property
    def size(self) -> int:
        """:math:`D`, the length of a position."""
        return sum(group.size for group in self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups, in order."""
        return tuple(group.name for group in self.groups)

    def slices(self) -> Iterator[tuple[NoiseGroup, slice]]:
        """Each group with its slice of the position."""
        start = 0
        for group in self.groups:
            yield group, slice(start, start + group.size)
            start += group.size

    def split(self, position: Tensor) -> dict[str, Tensor]:
        r"""Cut a position into its groups; views, no copies.

        Arguments:
            position: Flat positions, with shape :math:`(B, D)`.

        Returns:
            Name -> block with shape :math:`(B, *)`.

        Raises:
            ContractError: The position does not have :math:`D` columns.
        """
        if position.ndim != 2 or position.shape[1] != self.size:
            raise ContractError(
                f"expected positions of shape (B, {self.size}) for groups {', '.join(self.names)}, "
                f"got {tuple(position.shape)}"
            )
        return {group.name: position[:, where].unflatten(1, group.shape) for group, where in self.slices()}

    def draw(self, count: int, *, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Fresh standard-normal positions ``(count, D)`` on the generator's device."""
        device = generator.device if generator is not None else None
        return torch.randn(count, self.size, generator=generator, device=device, dtype=dtype)


class Latent:
    r"""What a prior gives to a decoder.

    Arguments:
        groups: One tensor per latent group, each with shape :math:`(B, *)`.
        context: Features that the prior's tower computed on the way, a deterministic function of ``groups``; a
            hierarchical decoder continues from them. ``None`` where there are none.
    """

    # A plain class: torch's compiler can't trace one that attrs makes.
    def __init__(self, groups: Iterable[Tensor], context: Tensor | None = None) -> None:
        self.groups, self.context = tuple(groups), context

    def flat(self) -> Tensor:
        """All groups in one ``(B, d)`` tensor: what an energy on the latent reads."""
        if len(self.groups) == 1:
            return self.groups[0].flatten(1)
        return torch.cat([group.flatten(1) for group in self.groups], dim=1)

    def __len__(self) -> int:
        return self.groups[0].shape[0]

    def detach(self) -> Latent:
        """The same values, cut from the graph."""
        context = None if self.context is None else self.context.detach()
        return Latent(tuple(group.detach() for group in self.groups), context)


@attrs.frozen(eq=False)
class Batch:
    r"""Some rows of a data set.

    Arguments:
        x: Items in [-1, 1] (images) or in their own units (vectors), with shape :math:`(B, *)`.
        index: Row numbers in the data set's split, with shape :math:`(B,)`.
        label: Class labels with shape :math:`(B,)`, or ``None``.
    """

    x: Tensor
    index: Tensor
    label: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; the host does not wait for the copy of a batch in pinned memory."""

        if self.x.device == torch.device(device):
            return self

        def moved(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=part.is_pinned())

        return Batch(moved(self.x), moved(self.index), None if self.label is None else moved(self.label))

    def pinned(self) -> Batch:
        """The same batch in pinned memory."""
        label = None if self.label is None else self.label.pin_memory()
        return Batch(self.x.pin_memory(), self.index.pin_memory(), label)


class Stateful(Protocol):
    """Anything whose state belongs in a checkpoint."""

    def state_dict(self) -> StateTree:
        """State as a nested dict of tensors and JSON scalars."""

    def load_state_dict(self, state: StateTree) -> Any:
        """Inverse of :meth:`state_dict`."""

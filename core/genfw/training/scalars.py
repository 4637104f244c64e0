"""Running means of a stage's scalars, summed on the device and read once per row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces.values import StateTree


class RunningMeans:
    """Means of a stage's scalars since the last row.

    Steps may report different scalars; each is averaged over the steps that have it. A non-finite value makes its mean
    non-finite, so the rows show it.

    Arguments:
        device: The scalars' device.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        # One sum per set of names: a single addition per step for all scalars.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Add the scalars of one step; does not wait for the device."""
        if not scalars:
            return
        try:
            values = torch.stack(tuple(scalars.values())).detach()
        except (TypeError, RuntimeError):  # not tensors, or not alike
            values = torch.empty(())
        if values.shape != (len(scalars),) or values.dtype != torch.get_default_dtype() or values.device != self.device:
            values = torch.stack([self._moved(name, value) for name, value in scalars.items()])
        total, count = self._sums.get(names := tuple(scalars), (None, 0))
        self._sums[names] = (values if total is None else total + values, count + 1)

    def _moved(self, name: str, value: Tensor | float) -> Tensor:
        """One scalar on the device, in the default precision."""
        value = torch.as_tensor(value).detach()
        if value.numel() != 1:
            raise ContractError(f"a stage reports scalars, but '{name}' has shape {tuple(value.shape)}; take its mean")
        return value.reshape(()).to(self.device, torch.get_default_dtype(), non_blocking=True)

    def take(self, fabric: Fabric, flag: bool = False) -> tuple[dict[str, float], bool]:
        """Means over the steps and over all processes; begins new ones.

        Arguments:
            fabric: The processes.
            flag: This process's flag.

        Returns:
            The means, in order of the scalars' first appearance, and whether any process set its flag.
        """
        parts = [torch.cat([total, total.new_full((1,), float(count))]) for total, count in self._sums.values()]
        flat = torch.cat([*parts, torch.full((1,), float(flag), device=self.device, dtype=torch.get_default_dtype())])
        if fabric.world_size > 1:
            flat = torch.as_tensor(fabric.all_reduce(flat, reduce_op="mean"))
        numbers: list[float] = flat.tolist()
        sums: dict[str, tuple[float, float]] = {}
        for names in self._sums:
            count = numbers[len(names)]
            for name, value in zip(names, numbers, strict=False):
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + value, before[1] + count)
            numbers = numbers[len(names) + 1 :]
        self._sums = {}
        return {name: total / count for name, (total, count) in sums.items()}, numbers[-1] > 0

    def state_dict(self) -> StateTree:
        """The sums since the last row."""
        return {"sums": [[list(names), total, count] for names, (total, count) in self._sums.items()]}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self._sums = {tuple(names): (total.to(self.device), int(count)) for names, total, count in state["sums"]}

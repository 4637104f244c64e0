"""A recorder of chains on the CPU: the list of all operations, which is done again on the same memory."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero}


class Operations(TorchDispatchMode):
    """Records what a CUDA graph would; as that, it refuses operations that the host waits for."""

    def __init__(self, device=None):
        super().__init__()
        self.generator = torch.Generator()
        self.operations = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.overloadpacket in _READS:
            raise RuntimeError(f"the host waits for the device in a recording ({op})")
        result = op(*args, **(kwargs or {}))
        self.operations.append((op, args, kwargs or {}, result))
        return result

    def record(self, function):
        with self:
            return function()

    @torch.no_grad()
    def replay(self):
        for op, args, kwargs, result in self.operations:
            for old, new in zip(tree_leaves(result), tree_leaves(op(*args, **kwargs)), strict=True):
                # A view or an operation in place has written to its memory already.
                if isinstance(old, torch.Tensor) and old.numel() and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

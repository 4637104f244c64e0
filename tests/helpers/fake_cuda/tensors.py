"""Tensors of the pretended device, and the modes under which torch makes and checks them. After ``start.start()``."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fake_cuda.findings import note_launch, note_wait

aten = torch.ops.aten
DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")

#: Operations whose result the host needs before it can go on.
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.bincount,
    aten.unique_consecutive, aten.equal, aten.is_nonzero, aten.histc, aten.linalg_cholesky_ex, aten._linalg_eigh,
}  # fmt: skip
COPIES = {aten.copy_, aten._to_copy, aten.fill_}
INDEXING = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}
#: Operations that hand out memory, without a kernel.
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach}
#: Functions that make tensors; ``cuda`` among their arguments stands for ``cuda:0``.
MAKERS = {"to", "zeros", "ones", "empty", "full", "randn", "rand", "tensor", "as_tensor", "arange"}


class Fake(Tensor):
    """Says ``cuda:0`` and holds a CPU tensor."""

    @staticmethod
    def __new__(cls, held):
        options = {"dtype": held.dtype, "layout": held.layout, "device": DEVICE, "strides": held.stride()}
        return Tensor._make_wrapper_subclass(cls, held.size(), storage_offset=held.storage_offset(), **options)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


def run(op, args, kwargs):
    """Check and count one operation, and run it on the held tensors."""
    packet, leaves = op.overloadpacket, list(_leaves((args, kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    fakes = [one for one in tensors if isinstance(one, Fake)]
    strangers = [one for one in tensors if not isinstance(one, Fake)]
    asked = kwargs.get("device")
    there = bool(fakes) if asked is None else torch.device(asked).type == "cuda"
    if fakes and packet in WAITING:
        note_wait(str(packet))
    if packet in COPIES:
        _check_copy(packet, args, kwargs, there)
    elif packet in INDEXING:
        _check_index(op, args, fakes)
    elif fakes and strangers:
        _check_devices(op, args, strangers)
    _check_generators(op, leaves, there)
    if there and not op.is_view and packet not in FREE:
        note_launch()
    before = {id(one.held): one for one in fakes}
    result = op(*_mapped(_bare, args), **_mapped(_bare, kwargs))

    def wrap(leaf):
        if not isinstance(leaf, Tensor) or not there:
            return leaf
        return before[id(leaf)] if id(leaf) in before else Fake(leaf)

    return _mapped(wrap, result)


def _leaves(tree):
    # torch's own trees know many more containers, and take most of the time here.
    if isinstance(tree, list | tuple):
        for part in tree:
            yield from _leaves(part)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    else:
        yield tree


def _mapped(function, tree):
    if isinstance(tree, torch.Size):
        return tree
    if isinstance(tree, list | tuple):
        mapped = [_mapped(function, part) for part in tree]
        if isinstance(tree, list):
            return mapped
        return type(tree)(*mapped) if hasattr(tree, "_fields") else tuple(mapped)
    if isinstance(tree, dict):
        return {key: _mapped(function, part) for key, part in tree.items()}
    return function(tree)


def _bare(leaf):
    return leaf.held if isinstance(leaf, Fake) else CPU if isinstance(leaf, torch.device) else leaf


def _check_copy(packet, args, kwargs, there):
    source = args[0] if packet is aten._to_copy else args[1]
    to_device = there if packet is aten._to_copy else isinstance(args[0], Fake)
    asked = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
    blocking = not (asked and getattr(source, "pinned", False))
    if isinstance(source, Fake) and not to_device:
        note_wait(f"{packet} to the CPU")  # a copy that does not block must be waited for before it is read
    elif isinstance(source, Tensor) and not isinstance(source, Fake) and to_device and blocking:
        note_wait(f"{packet} from the CPU")


def _check_index(op, args, fakes):
    if not isinstance(args[0], Fake) and fakes:
        raise RuntimeError(f"indices on cuda:0 for a tensor on the CPU, or values there ({op})")
    for index in args[1] if fakes else ():
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            note_wait(f"{op.overloadpacket} by a mask")
        elif index is not None and not isinstance(index, Fake):
            note_wait(f"{op.overloadpacket} by an index on the CPU")


def _check_devices(op, args, strangers):
    scalars = all(one.dim() == 0 for one in strangers)
    written = op._schema.is_mutable and strangers[0] is args[0]
    if not scalars or torch.Tag.pointwise not in op.tags or written:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({op})")


def _check_generators(op, leaves, there):
    for leaf in leaves:
        if isinstance(leaf, torch._C.Generator):
            has, needs = torch.Generator.where.get(leaf._cdata, "cpu"), "cuda" if there else "cpu"
            if has != needs:
                raise RuntimeError(f"Expected a '{needs}' device type for generator but found '{has}' ({op})")


class _Dispatch(TorchDispatchMode):
    """Makes on the device what is asked for there."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


class _Function(TorchFunctionMode):
    """``cuda`` has a number, memory is that of the held tensor."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("data_ptr", "untyped_storage", "tolist") and isinstance(args[0], Fake):
            if name == "tolist":
                note_wait("tolist")
            return getattr(args[0].held, name)()
        if name in MAKERS or kwargs:
            args, kwargs = _mapped(_numbered, args), _mapped(_numbered, kwargs or {})
        return function(*args, **(kwargs or {}))


def _numbered(leaf):
    return DEVICE if isinstance(leaf, str | torch.device) and str(leaf) == "cuda" else leaf


@contextlib.contextmanager
def pretending():
    """Inside the block torch has the device."""
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Dispatch(), _Function():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)

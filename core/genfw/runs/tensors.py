"""Tensors in a safetensors file, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from genfw.errors import DiskError
from genfw.runs.files import replacing


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a file by tensors, in one step; its folder is made.

    Arguments:
        path: The file.
        tensors: Name -> tensor; those that share memory are copied.
        metadata: Texts for the file's head.

    Raises:
        DiskError: The file can't be written; the message says which, and why.
    """
    if not path.parent.is_dir():  # a further process of a run must make no folder there
        path.parent.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        # safetensors refuses two names for one memory.
        plain[name] = tensor.clone() if memory.data_ptr() in seen or memory.nbytes() > tensor.nbytes else tensor
        seen.add(memory.data_ptr())
    try:
        with replacing(path) as part:
            save_file(plain, part, metadata)
            # safetensors lets only the owner read; whoever may read the folder may read the weights.
            part.chmod(path.parent.stat().st_mode & 0o666)
    except (SafetensorError, OSError) as error:  # safetensors tells a full disk by an exception of its own
        raise DiskError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error

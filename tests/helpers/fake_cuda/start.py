"""Load the pretended device into a process that has not imported torch yet."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("device.cpp")


def unavailable() -> str | None:
    """Why the device can't be pretended here; ``None`` where it can."""
    if importlib.metadata.version("torch").partition("+")[2].startswith(("cu", "rocm")):
        return "the pretended CUDA needs a CPU build of torch"
    return None if shutil.which("g++") else "the pretended CUDA is compiled by g++, which is not installed"


def compiled() -> Path:
    """The library made of ``device.cpp``, compiled once for each version of torch and of the source."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch_at, version = Path(spec.origin).parent, importlib.metadata.version("torch")
    digest = hashlib.sha256(SOURCE.read_bytes() + version.encode() + str(torch_at).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"genfw-fake-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to somebody else"
    library = folder / f"{digest}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        where = ["-I", torch_at / "include", "-L", torch_at / "lib", f"-Wl,-rpath,{torch_at / 'lib'}"]
        flags = ["-std=c++20", "-shared", "-fPIC", SOURCE, "-o", part, *where, "-lc10", "-ltorch_cpu"]
        subprocess.run(["g++", *flags], check=True)
        part.replace(library)
    return library


def start() -> None:
    """Compile and load the device, import torch, and make it believe that the device can compute."""
    assert "torch" not in sys.modules, "the pretended device comes before torch is imported"
    ctypes.CDLL(str(compiled()))
    import torch

    cuda: Any = torch.cuda
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "synchronize": None,
        "is_bf16_supported": True,
        "get_device_name": "no device",
        "get_device_capability": (9, 0),
        "empty_cache": None,
        "max_memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "is_current_stream_capturing": False,
        "manual_seed_all": None,
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, answer=answer, **__: answer)
    made = _generator_class(torch)
    vars(torch)["Generator"] = made
    default = made("cuda")
    cuda.get_rng_state = lambda *_: default.get_state()
    cuda.set_rng_state = lambda state, *_: default.set_state(state)
    torch.Tensor.pin_memory = _pin_memory  # type: ignore[method-assign]
    torch.Tensor.is_pinned = lambda self: getattr(self, "pinned", False)  # type: ignore[method-assign]
    torch.__future__.set_overwrite_module_params_on_conversion(True)


def _pin_memory(tensor: Any) -> Any:
    """A copy that says that it is pinned, in any thread."""
    if tensor.device.type != "cpu":
        raise RuntimeError("cannot pin 'cuda' memory: only dense CPU tensors can be pinned")
    copy = tensor.clone()
    copy.pinned = True
    return copy


def _generator_class(torch: Any) -> Any:
    plain = torch.Generator

    class Generator(plain):
        """A CPU generator that says where it was asked to be. Operations are handed other objects of its memory."""

        where: dict[int, str] = {}

        def __new__(cls, device="cpu"):
            made = plain.__new__(cls)
            kind = torch.device(device).type
            made._where = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
            cls.where[made._cdata] = kind
            return made

        def __init__(self, device="cpu"):
            pass

        @property
        def device(self):
            return self._where

    return Generator

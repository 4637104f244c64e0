"""Seeds by name, and every random state of a process: torch (CPU and the current accelerator), NumPy, Python."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every name, and on nothing else.

    Arguments:
        seed: The recipe's seed.
        names: What the randomness is for, such as ``("stage", 0, "rank", 1)``.
    """
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_all(seed: int) -> None:
    """Seed every global generator of this process."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def capture(device: torch.device | str = "cpu") -> dict[str, Any]:
    """State of every global generator, fit for a checkpoint.

    Arguments:
        device: The accelerator in use, if any: its generator is among them.
    """
    # legacy=True is what gives the tuple rather than a dict
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, spare = random.getstate()
    device = torch.device(device)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, torch.tensor(internal, dtype=torch.int64), spare],
    }


def restore(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Inverse of :func:`capture`."""
    torch.set_rng_state(state["torch"])
    device = torch.device(device)
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, spare = state["python"]
    random.setstate((version, tuple(internal.tolist()), spare))


@contextmanager
def isolated_rng(device: torch.device | str = "cpu") -> Iterator[None]:
    """Restore the global generators after the block, whatever it drew from them."""
    state = capture(device)
    try:
        yield
    finally:
        restore(state, device)

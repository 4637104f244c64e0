"""Seeds by name: every source of randomness gets its own, so that adding one leaves the others as they were."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every name, and on nothing else.

    Arguments:
        seed: The recipe's seed.
        names: What the randomness is for, such as ``("stage", 0, "rank", 1)``.
    """
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

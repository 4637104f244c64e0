"""What importers of published weights share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genfw.errors import DataError

__all__ = ["sequential"]


def sequential(tensors: Mapping[str, Tensor], name: str, what: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The one network in a checkpoint whose layers are called ``name.0``, ``name.1``, ..., wherever it stands.

    Arguments:
        tensors: Every tensor of the file by its path, keys joined by ``.``.
        name: The network's own name, such as ``gen``.
        what: The word for it in a message.

    Returns:
        Its tensors by their names from ``name`` on, and its layers' weights in order; both empty where there is none.

    Raises:
        DataError: There are several in the file.
    """
    first = f"{name}.0.weight"
    prefixes = [path.removesuffix(first) for path in tensors if f".{path}".endswith(f".{first}")]
    if not prefixes:
        return {}, []
    if len(prefixes) > 1:
        raise DataError(f"one {what} was expected, the file has {', '.join(prefix + name for prefix in prefixes)}")
    start = f"{prefixes[0]}{name}."
    own = {path.removeprefix(prefixes[0]): tensors[path] for path in tensors if path.startswith(start)}
    return own, [own[key] for key in sorted(own, key=lambda key: int(key.split(".")[1])) if key.endswith(".weight")]

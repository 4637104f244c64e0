"""Weights into a model or its parts: those that ``genfw import`` has written, or another model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from genfw.errors import AbsentDataError, ContractError, DataError
from genfw.interfaces import Amortizer, Decoder, Encoder, Energy, Prior
from genfw.models.model import Model

#: Parts of a model that weights can be of.
ROLES: Mapping[str, type[nn.Module]] = {
    "prior": Prior,
    "decoder": Decoder,
    "encoder": Encoder,
    "energy": Energy,
    "amortizer": Amortizer,
}


def load_into(module: nn.Module, file: str | Path, roles: Sequence[str] | None = None) -> tuple[str, ...]:
    """Load imported weights into a model, or into one of its parts.

    Every parameter must be in the file, with its shape, and everything in the file must be used. Buffers that the file
    lacks (vectors of a power iteration) stay as they are.

    Arguments:
        module: A :class:`~genfw.Model`, or a prior, decoder, encoder, energy or amortizer.
        file: What ``genfw import`` has written.
        roles: Parts of the model to load, of those the file has; all of them where absent.

    Returns:
        Names of the buffers that the file does not have.

    Raises:
        DataError: There is no such file, or it was not written by ``genfw import``.
        ContractError: It does not fit the module.
    """
    tensors = _read(Path(file))
    parts = _parts(module)
    wanted = list(tensors if isinstance(module, Model) else parts) if roles is None else list(roles)
    return _fill_all(module, parts, tensors, wanted, str(file))


def load_parts(
    model: Model, other: Model, roles: Sequence[str] | None = None, *, where: str = "the other model"
) -> None:
    """Copy the weights of another model's parts, buffers included.

    Arguments:
        model: Its parts are filled.
        other: Its parts are copied.
        roles: Which parts; where absent, those that both models have.
        where: What the other model is called in an error.

    Raises:
        ContractError: A part is missing in one of them, is built otherwise, or none was found.
    """
    parts, given = _parts(model), _parts(other)
    wanted = [role for role in given if role in parts] if roles is None else list(roles)
    tensors = {role: part.state_dict() for role, part in given.items()}
    if not any(tensors.get(role) for role in wanted) and roles is None:
        raise ContractError(f"{where} has no weights that this model could take")
    _fill_all(model, parts, tensors, wanted, where)


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    """Role -> module, of the roles that are filled."""
    if not isinstance(module, Model):
        return {role: module for role, interface in ROLES.items() if isinstance(module, interface)}
    parts = {
        "prior": module.prior,
        "decoder": module.decoder,
        "encoder": module.encoder,
        # Several together: to leave them out would be to load half a model without a word.
        "energy": module.energies[0] if len(module.energies) == 1 else module.energies if module.energies else None,
        "amortizer": module.amortizer,
    }
    return {role: part for role, part in parts.items() if part is not None}


def _fill_all(
    module: nn.Module,
    parts: Mapping[str, nn.Module],
    tensors: Mapping[str, Mapping[str, Tensor]],
    wanted: Sequence[str],
    where: str,
) -> tuple[str, ...]:
    kept: list[str] = []
    for role in wanted:
        if role not in parts or role not in tensors:
            raise ContractError(
                f"there is nothing to load as '{role}': {where} has {', '.join(tensors)}, and "
                f"{type(module).__name__} has {', '.join(parts)}"
            )
        kept += [f"{role}.{name}" for name in _fill(parts[role], tensors[role], f"{where}, {role}")]
    return tuple(kept)


def _read(file: Path) -> dict[str, dict[str, Tensor]]:
    """Role -> name -> tensor."""
    if not file.is_file():
        raise AbsentDataError(f"there is no file {file}; genfw import writes one")
    tensors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                role, _, rest = name.partition(".")
                tensors.setdefault(role, {})[rest] = opened.get_tensor(name)
    except Exception as error:  # safetensors has an exception of its own, of no public base
        raise DataError(f"{file} is not a safetensors file ({error}); genfw import writes one") from error
    if not set(tensors) <= set(ROLES):
        raise DataError(f"{file} was not written by genfw import: it has tensors of {', '.join(sorted(tensors))}")
    return tensors


def _fill(part: nn.Module, tensors: Mapping[str, Tensor], where: str) -> list[str]:
    own = part.state_dict()
    problems = [f"'{name}' is not in the module" for name in tensors if name not in own]
    problems += [f"'{name}' is not in the file" for name, _ in part.named_parameters() if name not in tensors]
    problems += [
        f"'{name}' has shape {tuple(own[name].shape)} in the module and {tuple(tensor.shape)} in the file"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ContractError(f"{where} does not fit {type(part).__name__}: {'; '.join(problems[:3])}{more}")
    part.load_state_dict(dict(tensors), strict=False)
    return [name for name in own if name not in tensors]

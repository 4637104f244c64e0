"""What the parts of a run promise: for each method of an interface, what is wrong with the value that it returned.

A promise is cheap, because it is asked after every call, and never waits for a device.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.evaluation.results import Result
from genfw.interfaces.dataset import Split
from genfw.interfaces.encoder import Posterior
from genfw.interfaces.likelihood import Likelihood
from genfw.interfaces.values import Latent
from genfw.runs.state_tree import split_tree

#: From a part, the value that its method returned and the method's arguments to a complaint; empty where it is well.
Promise = Callable[..., str]


def _what(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} with shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _tensor(value: Any, shape: Sequence[int], like: Tensor | None, what: str) -> str:
    """Real numbers of a shape, on the device of ``like``."""
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape) or not value.is_floating_point():
        return f"returned {_what(value)}, and {what} is a tensor of real numbers with shape {tuple(shape)}"
    if like is not None and value.device != like.device:
        return f"returned a tensor on device {value.device}, and was given one on {like.device}"
    return ""


# -- networks ---------------------------------------------------------------------------------------------------------


def _energy(part: Any, value: Any, v: Tensor, *_: Any, **__: Any) -> str:
    if said := _tensor(value, v.shape[:1], v, "an energy of each item"):
        return said
    if value.requires_grad or not torch.is_grad_enabled():
        return ""
    needed = v.requires_grad or any(parameter.requires_grad for parameter in part.parameters())
    return "returned numbers without gradient, and chains and training differentiate them" if needed else ""


def _value_and_grad(_: Any, value: Any, v: Tensor, *__: Any, **___: Any) -> str:
    if not isinstance(value, tuple) or len(value) != 2:
        return f"returned {_what(value)}, and not energies with their gradient"
    return _tensor(value[0], v.shape[:1], v, "an energy of each item") or _tensor(value[1], v.shape, v, "the gradient")


def _for_chain(_: Any, value: Any, *__: Any, **___: Any) -> str:
    return "" if hasattr(type(value), "__enter__") else f"returned {_what(value)}, and not a context manager"


def _likelihood(part: Any, value: Any, *_: Any, **__: Any) -> str:
    if not isinstance(value, Likelihood):
        return f"returned {_what(value)}, and not a Likelihood"
    own, given = (None if shape is None else tuple(shape) for shape in (part.noise_shape, value.noise_shape))
    return "" if own == given else f"returned a likelihood whose noise_shape is {given}, and its own is {own}"


def _latent(_: Any, value: Any, noise: Sequence[Tensor], *__: Any, **___: Any) -> str:
    if not isinstance(value, Latent):
        return f"returned {_what(value)}, and not a Latent"
    if len(value.groups) != len(noise) or any(len(group) != len(noise[0]) for group in value.groups):
        shapes = ", ".join(str(tuple(group.shape)) for group in value.groups) or "none"
        return f"returned groups of shapes {shapes} for noise of {len(noise)} groups with {len(noise[0])} rows"
    return ""


def _prior_log_prob(_: Any, value: Any, latent: Latent, *__: Any, **___: Any) -> str:
    return _tensor(value, (len(latent),), latent.groups[0], "a log density of each item")


def _posterior(_: Any, value: Any, x: Tensor, *__: Any, **___: Any) -> str:
    if not isinstance(value, Posterior):
        return f"returned {_what(value)}, and not a Posterior"
    return "" if value.noise.ndim == 2 and len(value.noise) == len(x) else f"returned the noise {_what(value.noise)}"


def _embedding(_: Any, value: Any, x: Tensor, *__: Any, **___: Any) -> str:
    wide = value.shape[1:] if isinstance(value, Tensor) and value.ndim == 2 else (1,)
    return _tensor(value, (len(x), *wide), x, "the features of each item")


def _positions(count: int, value: Any, like: Tensor | None = None) -> str:
    wide = value.shape[1:] if isinstance(value, Tensor) and value.ndim == 2 else (1,)
    return _tensor(value, (count, *wide), like, "the positions")


def _losses(_: Any, value: Any, position: Tensor, *__: Any, **___: Any) -> str:
    return _tensor(value, (len(position),), position, "a loss of each item")


def _penalty(_: Any, value: Any, *__: Any, **___: Any) -> str:
    return "" if value is None else _tensor(value, (), None, "a penalty")


# -- chains -----------------------------------------------------------------------------------------------------------


def _state(value: Any) -> str:
    if isinstance(getattr(value, "position", None), Tensor):
        return ""
    return f"returned {_what(value)}, and a state has its position"


def _init(_: Any, value: Any, target: Any, position: Tensor, *__: Any, **___: Any) -> str:
    return _state(value) or _tensor(value.position, position.shape, position, "the state's position")


def _step(_: Any, value: Any, target: Any, state: Any, *__: Any, **___: Any) -> str:
    if not isinstance(value, tuple) or len(value) != 2:
        return f"returned {_what(value)}, and not a state with its Info"
    if said := _state(value[0]):
        return said
    before = state.position
    if said := _tensor(value[0].position, before.shape, before, "the state's position"):
        return said
    accepted = getattr(value[1], "acceptance", None)
    return _tensor(accepted, before.shape[:1], before, "the acceptance of each chain")


def _start(_: Any, value: Any, request: Any, *__: Any, **___: Any) -> str:
    said = _tensor(value, (request.count, request.target.layout.size), None, "where the chains begin")
    return said or ("" if value.device == request.generator.device else f"returned a tensor on {value.device}")


def _savable(_: Any, value: Any, *__: Any, **___: Any) -> str:
    if not isinstance(value, Mapping):
        return f"returned {_what(value)}, and state is a dict"
    try:
        split_tree(value, copies=False)  # a replay buffer may fill half of the memory
    except ContractError as error:
        return str(error)
    return ""


# -- data, training, evaluation ---------------------------------------------------------------------------------------


def _split(_: Any, value: Any, *__: Any, **___: Any) -> str:
    # What has the methods of a split is one: tests and plugins need not inherit it.
    fits = callable(getattr(value, "get", None)) and hasattr(type(value), "__len__")
    return "" if isinstance(value, Split) or fits else f"returned {_what(value)}, and not a Split"


def _count(_: Any, value: Any, *__: Any, **___: Any) -> str:
    return "" if isinstance(value, int) and value >= 0 else f"is {value!r}, and not a count of rows"


def rows_of(shape: Sequence[int]) -> Promise:
    """The promise of a split's ``get``, in a data set whose items have this shape."""

    def promise(_: Any, value: Any, index: Tensor, *__: Any, **___: Any) -> str:
        if not isinstance(value, tuple) or len(value) != 2:
            return f"returned {_what(value)}, and not rows with their labels or None"
        if said := _tensor(value[0], (len(index), *shape), None, "what it should return"):
            return said
        # One pass over the rows; their sum overflows where they are huge, so it is only the first question.
        if not math.isfinite(float(value[0].sum())) and not bool(value[0].isfinite().all()):
            return "returned rows with values that are not finite"
        return ""

    return promise


def _scalars(_: Any, value: Any, *__: Any, **___: Any) -> str:
    if not isinstance(value, Mapping):
        return f"returned {_what(value)}, and a step returns the scalars to log by their names"
    for name, scalar in value.items():
        if isinstance(scalar, Tensor):
            if scalar.numel() != 1:
                return f"reports '{name}' with shape {tuple(scalar.shape)}, and a stage reports scalars; take its mean"
        elif not isinstance(scalar, numbers.Real):
            return f"reports '{name}' as {_what(scalar)}, and a stage reports scalars"
        if not isinstance(name, str):
            return f"reports a scalar under the name {name!r}, and names are text"
    return ""


def _optimizer(_: Any, value: Any, *__: Any, **___: Any) -> str:
    return "" if isinstance(value, torch.optim.Optimizer) else f"returned {_what(value)}, and not a torch optimiser"


def _factor(_: Any, value: Any, *__: Any, **___: Any) -> str:
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return ""
    return f"returned {value!r}, and a factor on the learning rate is a finite number"


def _results(_: Any, value: Any, *__: Any, **___: Any) -> str:
    if not isinstance(value, Sequence) or not all(isinstance(result, Result) for result in value):
        return f"returned {_what(value)}, and not a list of Result objects"
    for result in value:
        if not isinstance(result.name, str):
            return f"returned a result whose name is {result.name!r}, and names are text"
        for number in (result.value, result.error):
            if number is not None and not isinstance(number, numbers.Real):
                return f"returned the value {_what(number)} for '{result.name}', and a value is a number or None"
    return ""


#: Kind of component -> method -> its promise.
PROMISES: Mapping[str, Mapping[str, Promise]] = {
    "prior": {"transform": _latent, "log_prob": _prior_log_prob, "for_chain": _for_chain, "penalty": _penalty},
    "decoder": {"forward": _likelihood, "for_chain": _for_chain, "penalty": _penalty},
    "encoder": {"forward": _posterior, "embed": _embedding, "penalty": _penalty},
    "energy": {
        "forward": _energy,
        "value_and_grad": _value_and_grad,
        "for_chain": _for_chain,
        "penalty": _penalty,
    },
    "amortizer": {
        "sample": lambda _, value, count, *__, **___: _positions(count, value),
        "sample_given": lambda _, value, x, *__, **___: _positions(len(x), value, x),
        "loss": _losses,
    },
    "sampler": {"init": _init, "step": _step, "state_dict": _savable},
    "start": {"draw": _start, "state_dict": _savable},
    "dataset": {"split": _split},
    "stage": {"step": _scalars, "state_dict": _savable},
    "optimizer": {"build": _optimizer, "factor": _factor},
    "metric": {"compute": _results},
    "tracker": {},
}

#: The promise of a split's ``__len__``.
COUNT: Promise = _count


# -- what is known once a part is built -------------------------------------------------------------------------------


def shape_fault(name: str, value: Any) -> str:
    """What is wrong with the shape that a part states: ``noise_shapes``, ``noise_shape`` or ``data_shape``."""
    if name == "noise_shape" and value is None:
        return ""
    shapes = value if name == "noise_shapes" else (value,)
    if not isinstance(shapes, tuple | list) or not all(_is_size(shape) for shape in shapes):
        form = "a tuple of such shapes" if name == "noise_shapes" else "a tuple of positive whole numbers"
        return f"is {value!r:.80}, and not {form}"
    return ""


def _is_size(shape: Any) -> bool:
    return isinstance(shape, tuple | list) and all(isinstance(n, int) and n > 0 for n in shape)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of what a network takes or gives, as far as they are at hand."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Latent):
        return list(value.groups)
    if isinstance(value, Likelihood):
        return [value.mean]
    if isinstance(value, Posterior):
        return [value.noise, value.log_q, value.log_p]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []

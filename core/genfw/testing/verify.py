"""``genfw verify``: tests an installed component with the suites of the conformance kit.

It loads every component and reads its constructor. It also builds small components of the kinds that have a suite, and
runs the tests that need no more than the constructor. Tests that need an author's knowledge (the intended bias of a
sampler) belong to the plugin, which subclasses the same suites.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch

from genfw.errors import ContractError, DataError, GenfwError, PluginError, one_line
from genfw.interfaces.values import NoiseGroup, NoiseLayout, Size
from genfw.plugins.component import Component
from genfw.plugins.registry import Registry
from genfw.plugins.signature import alternatives, class_problems, interface_kind, parameters
from genfw.testing.kernels import SamplerSuite, StartSuite
from genfw.testing.networks import AmortizerSuite, DecoderSuite, EncoderSuite, EnergySuite, PriorSuite
from genfw.testing.pipeline import DatasetSuite, MetricSuite, OptimizerSuite, TrackerSuite
from genfw.testing.suite import ComponentSuite
from genfw.testing.tiny import TinyPrior

#: Shapes of data to try in turn: some components take vectors, some images.
_SHAPES: tuple[Size, ...] = ((2,), (1, 8, 8), (3, 32, 32))
_LATENT: Size = (4,)
#: Laws of a sampler that depend on its bias or adaptation, which only its author knows.
_AUTHORS = (
    "test_law_is_kept",
    "test_law_is_reached",
    "test_a_biased_kernel_would_be_noticed",
    "test_chains_do_not_influence_one_another",
)


@attrs.frozen
class Check:
    """One checked law.

    Arguments:
        component: ``kind/name``.
        law: What must hold.
        outcome: ``passed``, ``failed`` or ``left out``.
        message: Why, where it did not pass.
    """

    component: str
    law: str
    outcome: str
    message: str = ""


def verify(component: Component, registry: Registry, arguments: Mapping[str, Any] | None = None) -> Iterator[Check]:
    """Check one component, law by law.

    Arguments:
        component: One of the registry's.
        registry: Registry of the component.
        arguments: Arguments of its constructor, besides its defaults.
    """
    name = f"{component.kind}/{component.name}"
    light = [record for record in registry.plugins if record.name == component.plugin and record.heavy]
    yield _check(name, "its plugin imports nothing heavy", [f"imports {', '.join(record.heavy)}" for record in light])
    try:
        cls = registry.load_class(component)
    except PluginError as error:
        absent = any(importlib.util.find_spec(package) is None for package in component.needs)
        outcome = "left out" if absent else "failed"
        yield Check(name, "its class can be imported, and is of its kind", outcome, str(error))
        return
    yield Check(name, "its class can be imported, and is of its kind", "passed")
    problems = class_problems(cls)
    yield _check(name, "its constructor is a documented schema", problems)
    if component.kind not in _SUITES:
        yield Check(name, "its behaviour", "left out", "it is for the plugin's own tests: genfw.testing.StageSuite")
    elif not problems:
        yield from _behaviour(name, component.kind, cls, arguments or {})


def _behaviour(name: str, kind: str, cls: type, arguments: Mapping[str, Any]) -> Iterator[Check]:
    missing = _missing(cls, arguments)
    if missing:
        yield Check(name, "its behaviour", "left out", f"{', '.join(missing)} must be given: --set {missing[0]}=VALUE")
        return
    names = [parameter.name for parameter in parameters(cls)]
    unknown = [argument for argument in arguments if argument not in names]
    if unknown:
        message = f"there is no parameter '{unknown[0]}'; there are {', '.join(names) or 'none'}"
        yield Check(name, "it can be built", "failed", message)
        return
    refused = ""
    for shape in _SHAPES:
        try:
            with torch.random.fork_rng(devices=[]):
                made = _build(cls, shape, arguments)
        except (GenfwError, ValueError, TypeError, RuntimeError) as error:
            refused = f"{one_line(error)} (with data of shape {list(shape)})"
            continue
        yield Check(name, "it can be built", "passed")
        yield from _run(name, _suite(kind, lambda: _build(cls, shape, arguments), shape, made))  # noqa: B023
        return
    yield Check(name, "it can be built", "failed", refused)


def _run(name: str, suite: ComponentSuite) -> Iterator[Check]:
    for method, function in inspect.getmembers(suite, inspect.ismethod):
        if not method.startswith("test_") or method in vars(ComponentSuite):
            continue
        law = method.removeprefix("test_").replace("_", " ")
        if isinstance(suite, SamplerSuite) and method in _AUTHORS:
            yield Check(
                name, law, "left out", "needs the author's word on bias and adaptation: genfw.testing.SamplerSuite"
            )
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                function()
        except KeyboardInterrupt:
            raise
        except (ContractError, DataError) as error:
            # Not the class's fault: a data set without its files, or a metric for images.
            excused = isinstance(suite, DatasetSuite | MetricSuite | StartSuite)
            yield Check(name, law, "left out" if excused else "failed", one_line(error))
        except AssertionError as error:
            yield Check(name, law, "failed", " ".join(str(error).split()))
        except Exception as error:
            yield Check(name, law, "failed", one_line(error))
        else:
            yield Check(name, law, "passed")


def _check(name: str, law: str, problems: Sequence[str]) -> Check:
    return Check(name, law, "failed" if problems else "passed", "; ".join(problems))


# -- building ---------------------------------------------------------------------------------------------------------


def _injected(shape: Size) -> dict[str, Any]:
    latent = NoiseLayout((NoiseGroup("z.0", _LATENT),))
    return {
        "data_shape": shape,
        "latent_layout": latent,
        "noise_layout": latent,
        "device": torch.device("cpu"),
        "generator": torch.Generator().manual_seed(0),
    }


def _missing(cls: type, arguments: Mapping[str, Any]) -> list[str]:
    """Required parameters that genfw can't guess."""
    guessed = {*_injected((2,)), *arguments}
    return [
        parameter.name
        for parameter in parameters(cls)
        if parameter.required and parameter.name not in guessed and not _takes_prior(parameter.annotation)
    ]


def _takes_prior(annotation: Any) -> bool:
    return any(interface_kind(option) == "prior" for option in alternatives(annotation))


def _build(cls: type, shape: Size, arguments: Mapping[str, Any]) -> Any:
    """An instance under the class's caps for smoke runs."""
    given, injected = dict(arguments), _injected(shape)
    caps: Mapping[str, Any] = getattr(cls, "smoke", {})
    for parameter in parameters(cls):
        if parameter.name in given:
            continue
        if parameter.name in injected:
            given[parameter.name] = injected[parameter.name]
        elif parameter.required:
            given[parameter.name] = TinyPrior(_LATENT[0])
        elif parameter.name in caps:
            cap = caps[parameter.name]
            numeric = isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
            given[parameter.name] = min(parameter.default, cap) if numeric else cap
    return cls(**given)


# -- suites -----------------------------------------------------------------------------------------------------------

_SUITES: Mapping[str, Any] = {
    "energy": EnergySuite,
    "prior": PriorSuite,
    "decoder": DecoderSuite,
    "encoder": EncoderSuite,
    "amortizer": AmortizerSuite,
    "sampler": SamplerSuite,
    "start": StartSuite,
    "dataset": DatasetSuite,
    "optimizer": OptimizerSuite,
    "metric": MetricSuite,
    "tracker": TrackerSuite,
}


def _suite(kind: str, make: Callable[[], Any], data: Size, made: Any) -> ComponentSuite:
    """The suite of a kind, with the attributes that a test of this component would set.

    Arguments:
        kind: One of :data:`_SUITES`.
        make: Builds the component.
        data: Shape of one item of data.
        made: An instance, to inspect.
    """
    facts: dict[str, Any] = {
        "shape": _LATENT if kind == "energy" and made.on == "latent" else data,
        "size": math.prod(_LATENT),
        "latent_shapes": (_LATENT,),
        "borrowed": tuple(name for name, value in vars(made).items() if _holds_prior(value)),
    }
    laws = type("Laws", (_SUITES[kind],), {**facts, "make": lambda self: make()})
    suite: ComponentSuite = laws()
    return suite


def _holds_prior(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(item, TinyPrior) for item in items)

"""Shared by all conformance suites: the laws of any component, and those of any network."""

from __future__ import annotations

import abc
import functools
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genfw.interfaces.values import StateTree
from genfw.models.freezing import frozen_for_chain
from genfw.plugins.signature import class_problems
from genfw.runs.state_tree import join_tree, split_tree


def generator_of(seed: int = 0) -> torch.Generator:
    """A fresh generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def stored(tree: StateTree) -> StateTree:
    """A state after saving and loading; raises an error for what a checkpoint can't hold."""
    structure, tensors = split_tree(tree)
    restored: StateTree = join_tree(structure, {name: value.clone() for name, value in tensors.items()})
    return restored


def assert_same_tree(actual: Any, expected: Any, where: str = "state") -> None:
    """Assert that two states are equal, bit for bit."""
    if isinstance(expected, Tensor):
        same = isinstance(actual, Tensor) and actual.dtype == expected.dtype and torch.equal(actual, expected)
        assert same, f"{where} differs: {actual} is not {expected}"
    elif isinstance(expected, dict):
        assert isinstance(actual, dict), f"{where} differs: {type(actual).__name__} is not a dict"
        assert actual.keys() == expected.keys(), f"{where} differs: keys {sorted(actual)} are not {sorted(expected)}"
        for key in expected:
            assert_same_tree(actual[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), f"{where} differs in length"
        for index, (item, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same_tree(item, other, f"{where}/{index}")
    else:
        assert actual == expected, f"{where} differs: {actual!r} is not {expected!r}"


class ComponentSuite(abc.ABC):
    """The laws of any component.

    A subclass named ``Test...`` fills in :meth:`make`, and pytest runs the inherited tests.
    """

    @abc.abstractmethod
    def make(self) -> Any:
        """A new small component."""

    def test_constructor_is_a_documented_schema(self) -> None:
        """A recipe can set every argument, each is annotated and documented, and there is no ``**kwargs``."""
        problems = class_problems(type(self.make()))
        assert not problems, "\n".join(problems)

    def test_listing_it_imports_no_torch(self) -> None:
        """The plugin module of the component imports no torch."""
        module = type(self.make()).__module__
        for plugin in _plugin_modules():
            if module == plugin or module.startswith(f"{plugin}."):
                heavy = _imports_torch(plugin)
                assert not heavy, (
                    f"importing {plugin} imports torch; name classes by strings and import them in no hook"
                )


@functools.lru_cache(maxsize=1)
def _plugin_modules() -> tuple[str, ...]:
    return tuple(entry.module for entry in importlib.metadata.entry_points(group="genfw"))


@functools.lru_cache
def _imports_torch(plugin: str) -> bool:
    code = f"import sys; sys.path[:] = {sys.path!r}; import {plugin}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode != 0


class ModuleSuite(ComponentSuite):
    """The laws of a network as a map from ``(B, *)`` to ``(B, K)``.

    The suites of the interfaces fill in :meth:`item_shape` and :meth:`apply`; a test fills in :meth:`make` and sets
    what the suite can't know.
    """

    #: Attributes that hold parts of other components (an encoder's prior), not the module's own.
    borrowed: tuple[str, ...] = ()
    #: Largest difference, relative and absolute, that is rounding in float64.
    tolerance: float = 1e-8

    @abc.abstractmethod
    def make(self) -> Any:
        """A new small network, in float32."""

    @abc.abstractmethod
    def item_shape(self, module: Any) -> tuple[int, ...]:
        """Shape of one input, without batch."""

    @abc.abstractmethod
    def apply(self, module: Any, v: Tensor) -> Tensor:
        """All outputs for ``v`` of shape ``(B, *)``, with shape ``(B, K)``."""

    def inputs(self, module: Any, count: int, seed: int = 0) -> Tensor:
        """Typical inputs in float64, with shape ``(B, *)``; standard normal by default."""
        return torch.randn(count, *self.item_shape(module), generator=generator_of(seed), dtype=torch.float64)

    def prepared(self, seed: int = 0) -> Any:
        """A network in float64 and eval mode, with weights moved away from special values such as zero."""
        module = self._moved(self._seeded(seed), torch.float64).eval()
        generator = generator_of(seed + 1)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter += 0.05 * noise
        return module

    def _seeded(self, seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def _moved(self, module: Any, where: torch.dtype | str) -> Any:
        """The network in a precision or on a device, together with its borrowed parts."""
        for name in self.borrowed:
            for part in _parts(getattr(module, name)):
                part.to(where)
        return module.to(where)

    def _assert_close(self, actual: Tensor, expected: Tensor, message: str) -> None:
        close = torch.allclose(actual, expected, rtol=self.tolerance, atol=self.tolerance)
        assert close, f"{message}: largest difference {float((actual - expected).abs().max()):.3g}"

    def test_is_a_module_whose_parts_are_registered(self) -> None:
        """``parameters()``, ``buffers()`` and ``.to(device)`` reach every tensor, parameter and network."""
        module = self._seeded(0)
        assert isinstance(module, nn.Module)
        assert "_parameters" in module.__dict__, "super().__init__() was not called"
        hidden = sorted(set(_hidden(module, self.borrowed)))
        assert not hidden, (
            f"{', '.join(hidden)}: not registered, so neither trained, saved nor moved; use nn.Parameter, "
            "register_buffer, nn.ModuleList and a plain __init__ (attrs classes replace nn.Module's own __setattr__)"
        )

    def test_result_is_one_finite_row_per_item(self) -> None:
        """A batch of any size gives one finite row per item."""
        module = self.prepared()
        for count in (1, 2, 5):
            result = self.apply(module, self.inputs(module, count))
            assert result.ndim == 2, f"expected {count} rows, got shape {tuple(result.shape)}"
            assert result.shape[0] == count, f"expected {count} rows, got shape {tuple(result.shape)}"
            assert bool(result.isfinite().all()), "the result is not finite"

    def test_precision_is_that_of_input_and_weights(self) -> None:
        """float32 stays float32, float64 stays float64."""
        for dtype in (torch.float32, torch.float64):
            module = self._moved(self._seeded(0), dtype).eval()
            result = self.apply(module, self.inputs(module, 2).to(dtype))
            assert result.dtype == dtype, f"in {dtype} the result has {result.dtype}"

    def test_device_is_that_of_input_and_weights(self) -> None:
        """It runs on the meta device, and on a GPU if there is one."""
        devices = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
        for device in devices:
            module = self._moved(self._seeded(0), device).eval()
            result = self.apply(module, self.inputs(module, 2).float().to(device))
            assert result.device.type == device, f"on {device} the result is on {result.device}"

    def test_gradient_in_the_input_is_the_derivative(self) -> None:
        """Autograd agrees with the difference quotient, so no gradient is cut off."""
        module = self.prepared()
        v = self.inputs(module, 3).requires_grad_(True)
        result = self.apply(module, v)
        weight = torch.randn(result.shape, generator=generator_of(2), dtype=result.dtype)
        assert result.requires_grad, "the result does not depend on the input by any gradient"
        (gradient,) = torch.autograd.grad((weight * result).sum(), v)
        step = 1e-6 * torch.randn(v.shape, generator=generator_of(3), dtype=v.dtype)
        with torch.no_grad():
            difference = (weight * (self.apply(module, v + step) - self.apply(module, v - step))).sum()
        expected = 2.0 * (gradient * step).sum()
        scale = float(2.0 * gradient.norm() * step.norm()) + 1e-12
        assert abs(float(difference - expected)) < 1e-3 * scale, (
            f"along one direction the result changes by {float(difference):.6g}, autograd says {float(expected):.6g}"
        )

    def test_a_chain_changes_nothing(self) -> None:
        """Values and gradients are the same inside a chain, and nothing of a chain remains after it."""
        module = self.prepared()
        v = self.inputs(module, 3)

        def value_and_gradient() -> Tensor:
            point = v.clone().requires_grad_(True)
            result = self.apply(module, point)
            (gradient,) = torch.autograd.grad((result * torch.linspace(0.5, 1.5, result.shape[1])).sum(), point)
            return torch.cat([result.detach().flatten(), gradient.flatten()])

        outside = value_and_gradient()
        with frozen_for_chain(module):
            self._assert_close(value_and_gradient(), outside, "inside a chain it computes something else")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.1)
        moved = value_and_gradient()
        with frozen_for_chain(module):
            self._assert_close(value_and_gradient(), moved, "a chain goes on with the weights of an earlier one")

    def test_gradient_reaches_every_parameter(self) -> None:
        """Every weight affects the result."""
        module = self.prepared().train()
        parameters = dict(module.named_parameters())
        if not parameters:
            return
        result = self.apply(module, self.inputs(module, 8))
        weight = torch.randn(result.shape, generator=generator_of(2), dtype=result.dtype)
        gradients = torch.autograd.grad((weight * result).sum(), list(parameters.values()), allow_unused=True)
        idle = [name for name, g in zip(parameters, gradients, strict=True) if g is None or not bool(g.any())]
        assert not idle, f"no gradient reaches {', '.join(idle)}"

    def test_items_of_a_batch_are_independent(self) -> None:
        """In eval mode an item's result is the same alone and in a batch."""
        module = self.prepared()
        v = self.inputs(module, 4)
        with torch.no_grad():
            together = self.apply(module, v)
            single = torch.cat([self.apply(module, v[i : i + 1]) for i in range(4)])
        self._assert_close(together, single, "an item's result depends on the other items of its batch")

    def test_evaluation_changes_nothing(self) -> None:
        """In eval mode the same input gives the same result, and weights, buffers and input stay unchanged."""
        module = self.prepared()
        v = self.inputs(module, 3)
        before_v, before = v.clone(), {name: value.clone() for name, value in module.state_dict().items()}
        with torch.no_grad():
            first, second = self.apply(module, v), self.apply(module, v)
        assert torch.equal(first, second), "in eval mode two calls with the same input differ"
        assert torch.equal(v, before_v), "the input was changed in place"
        assert_same_tree(dict(module.state_dict()), before)

    def test_state_goes_through_a_checkpoint(self) -> None:
        """Another instance with the saved state computes the same, bit for bit."""
        module, other = self.prepared(0), self.prepared(7)
        other.load_state_dict(stored(dict(module.state_dict())))
        v = self.inputs(module, 3)
        with torch.no_grad():
            assert torch.equal(self.apply(other, v), self.apply(module, v)), "a loaded copy computes something else"


def _hidden(module: nn.Module, borrowed: tuple[str, ...]) -> Iterator[str]:
    """Names of attributes with tensors or networks that are not registered in ``module``."""
    known = {id(part) for part in (*module.modules(), *module.parameters(), *module.buffers())}
    for owner_name, owner in module.named_modules():
        slots = [name for cls in type(owner).__mro__ for name in getattr(cls, "__slots__", ())]
        own = {**{name: getattr(owner, name, None) for name in slots}, **vars(owner)}
        for name, value in own.items():
            if name in ("_parameters", "_buffers", "_modules") or name in borrowed:
                continue
            if any(id(part) not in known for part in _parts(value)):
                yield f"{owner_name}.{name}".lstrip(".")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor | nn.Module):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _parts(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _parts(item)

"""Everything public is explained: by its own docstring, or by that of what it overrides."""

import importlib
import inspect
import pkgutil

import pytest

import genfw
import genfw_cli
import genfw_plugins

OWN = ("genfw.", "genfw_cli.", "genfw_plugins.")
MODULES = sorted(
    info.name
    for package in (genfw, genfw_cli, genfw_plugins)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if info.name != "genfw.engine.worker"  # a program
)


def explained(cls, name):
    """Whether a method, or what it overrides in a base class of genfw, has a docstring."""
    bases = [base for base in cls.__mro__ if base is cls or base.__module__.startswith(OWN)]
    found = [vars(base)[name] for base in bases if name in vars(base)]
    return any((getattr(member, "__doc__", None) or "").strip() for member in found)


def methods(cls):
    for name, member in vars(cls).items():
        kinds = (staticmethod, classmethod, property)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds)):
            yield name


@pytest.mark.parametrize("module", MODULES)
def test_public_things_are_explained(module):
    missing = []
    for name, thing in vars(importlib.import_module(module)).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module:
            continue
        if inspect.isclass(thing):
            missing += [f"{name}.{method}" for method in methods(thing) if not explained(thing, method)]
    assert not missing

"""No number that a component or a section of a recipe takes may be NaN."""

from __future__ import annotations

import math
from unittest import mock

import attrs
import pytest

from genfw import load_plugins
from genfw.errors import ContractError
from genfw.models.sampling import SampleSettings
from genfw.plugins.signature import MISSING, alternatives, parameters
from genfw.training.health import HealthSettings
from genfw.training.updater import Clip
from genfw_plugins.stylegan.features import Features
from genfw_plugins.training._amortize import Amortize

REGISTRY = load_plugins(enabled=False)
KINDS = ("sampler", "start", "metric", "optimizer", "tracker", "stage", "dataset")
OFFERED = [REGISTRY.load_class(part, check_needs=False) for part in REGISTRY.components if part.kind in KINDS]
CLASSES = [Amortize, Clip, Features, HealthSettings, SampleSettings, *OFFERED]
NUMBERS = [(cls, one.name) for cls in CLASSES for one in parameters(cls) if float in alternatives(one.annotation)]


@pytest.mark.parametrize("cls", OFFERED)
def test_components_without_weights_are_attrs_classes_with_identity(cls) -> None:
    if parameters(cls):
        assert attrs.has(cls)
        assert cls.__eq__ is object.__eq__


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_nan_is_refused(cls, name) -> None:
    required = {one.name: one.annotation for one in parameters(cls) if one.default is MISSING}
    some = {float: 0.5, int: 1}
    given = {
        key: next((some[one] for one in alternatives(kind) if one in some), mock.MagicMock())
        for key, kind in required.items()
    }
    with pytest.raises(ContractError, match=rf"\b{name}\b.*\bnan\b"):
        cls(**(given | {name: math.nan}))

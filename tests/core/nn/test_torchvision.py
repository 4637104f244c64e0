"""torchvision is importable, whole or not. Each case is a fresh interpreter: operators can't be undefined."""

import importlib.machinery
import subprocess
import sys

import pytest

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_torchvision_and_fidelity_import_and_decode():
    code = """
import warnings
from genfw.nn.torchvision import import_torchvision, prepare
prepare(); prepare()
datasets = import_torchvision("torchvision.datasets")
assert import_torchvision() is import_torchvision()
import torch
assert hasattr(torch.ops.torchvision, "nms")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_fidelity
import gc; gc.collect()
assert hasattr(torch.ops.torchvision, "qnms")
print(datasets.FashionMNIST.__name__)
"""
    assert python(code) == "FashionMNIST"


@pytest.mark.slow
def test_nothing_is_defined_where_the_operators_exist():
    """A torchvision that is whole: here its operator is a definition with a kernel, made before ours could be."""
    code = """
import torch
whole = torch.library.Library("torchvision", "DEF")
whole.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
whole.impl("nms", lambda dets, scores, iou_threshold: dets.new_full((1,), 7.0), "CPU")
from genfw.nn import torchvision as torchvision_compat
torchvision_compat.prepare()
assert torchvision_compat._library is None
print(torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5).item())
"""
    assert python(code) == "7.0"


@pytest.mark.slow
def test_nothing_is_defined_where_the_extension_loads(tmp_path):
    """An extension that loads and brings ``nms`` is left alone: torchvision's import will find it."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / f"_C{SUFFIX}").write_bytes(b"")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import torch
loaded, made = [], []
def load(path):
    loaded.append(path)
    made.append(torch.library.Library("torchvision", "DEF"))
    made[0].define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.ops.load_library = load
from genfw.nn import torchvision as torchvision_compat
torchvision_compat.prepare(); torchvision_compat.prepare()
assert torchvision_compat._library is None
print(len(loaded), loaded[0].endswith({SUFFIX!r}))
"""
    assert python(code) == "1 True"


@pytest.mark.slow
def test_a_broken_extension_gets_schemas(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("import torch; schema = torch.ops.torchvision.nms.default._schema")
    (package / f"_C{SUFFIX}").write_bytes(b"not a library")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from genfw.nn.torchvision import import_torchvision
print(import_torchvision().schema.name)
"""
    assert python(code) == "torchvision::nms"


@pytest.mark.slow
def test_absent_torchvision_is_said():
    code = """
import sys
sys.modules["torchvision"] = None
from genfw.errors import PluginError
from genfw.nn.torchvision import import_torchvision
try:
    import_torchvision()
except PluginError as error:
    print(error)
"""
    assert "torchvision is not installed" in python(code)

"""What stands beside tensors in a file is passed over and not run; a small file can't take all memory or time."""

import argparse
import collections
import datetime as dt
import io
import os
import pickle
import random
import struct
import warnings
from decimal import Decimal
from pathlib import Path, PureWindowsPath
from uuid import UUID

import numpy as np
import pytest
import torch
from torch import nn

from genfw.errors import DataError
from genfw.weights.pickled import Inert, Items, RefusedError, read_pickle
from genfw.weights.torch_files import open_published
from places import SHARED

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 4, 5])
CASE = SHARED / "cases" / "energy-with-company.pth"


class Shell:
    """Runs when Python's own unpickler reads it."""

    def __reduce__(self):
        return os.system, ("touch witness",)


def moved(kind=torch.optim.Adam, **settings):
    """An optimiser that has taken a step."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.1, **settings)
    parameter.sum().backward()
    optimizer.step()
    return optimizer


def scheduled():
    scheduler = torch.optim.lr_scheduler.StepLR(moved(), 5)
    return [scheduler, scheduler.optimizer]


#: Makes what research code writes beside its weights, with a value of the test's choice inside where there is room.
COMPANY = {
    "numpy scalars": lambda inside: [np.float64(0.5), np.int64(3), np.bool_(True), np.str_("a"), np.datetime64("2020")],
    "numpy arrays": lambda inside: [np.arange(6.0).reshape(2, 3), np.array([inside]), np.array(["a"]), np.dtype("f4")],
    "paths": lambda inside: [Path("a/b"), PureWindowsPath("c"), {"path": Path("d"), "inside": inside}],
    "dates": lambda inside: [
        dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        dt.date(2024, 1, 2),
        {dt.time(3): inside},
    ],
    "defaultdict": lambda inside: collections.defaultdict(list, losses=[1.0, inside], counts=collections.Counter("ab")),
    "other containers": lambda inside: [collections.deque([inside], 3), {1, 2}, frozenset({3}), {(1, "a"): inside}],
    "optimizer": lambda inside: [moved(), moved(torch.optim.SGD, momentum=0.9), inside],
    "optimizer's state": lambda inside: {**moved(torch.optim.AdamW).state_dict(), "inside": inside},
    "scheduler": lambda inside: [scheduled(), inside],
    "scaler": lambda inside: [torch.amp.GradScaler("cpu"), inside],
    "random states": lambda inside: {
        "python": random.getstate(),
        "object": random.Random(3),
        "numpy": np.random.get_state(),
        "legacy": np.random.RandomState(1),
        "generator": np.random.default_rng(2),
        "torch": torch.get_rng_state(),
        "torch's": torch.Generator().manual_seed(5),
        "inside": inside,
    },
    "other values": lambda inside: [torch.float32, torch.device("cpu", 0), Decimal("1.5"), UUID(int=3), 2j, inside],
}


def weights():
    return {"w": torch.arange(6.0).view(2, 3), "b": nn.Parameter(torch.ones(2)), "half": torch.ones(2).half()}


def save(value, path, zipped, protocol=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some company is deprecated where it comes from
        torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """A file that payloads would make."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "witness").exists(), "the file's code has run"


@pytest.mark.parametrize("name", COMPANY)
@FORMATS
@PROTOCOLS
def test_tensors_are_read_from_any_company(name, zipped, protocol, tmp_path):
    expected = weights()
    file = save(
        {"before": COMPANY[name](1), "model": expected, "after": COMPANY[name](2)}, tmp_path / "a", zipped, protocol
    )
    with open_published(file) as published:
        found = {path: published.tensors[path] for path in published.tensors if path.startswith("model.")}
        for path in published.tensors:
            published.tensors[path]
    assert found.keys() == {f"model.{key}" for key in expected}
    for key, value in expected.items():
        assert torch.equal(found[f"model.{key}"], value)
        assert found[f"model.{key}"].dtype == value.dtype


@pytest.mark.parametrize("name", sorted(set(COMPANY) - {"numpy scalars"}))
@FORMATS
@PROTOCOLS
@pytest.mark.usefixtures("witness")
def test_a_payload_in_company_does_not_run(name, zipped, protocol, tmp_path):
    file = save({"model": weights(), "beside": COMPANY[name](Shell())}, tmp_path / "a", zipped, protocol)
    message = f"refused: the file asks for '{os.system.__module__}.system'"
    with pytest.raises(DataError, match=message), open_published(file):
        pass


class Posing:
    """Pickles as an object of a class that is passed over, called or filled with a payload."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce_ex__(self, protocol):
        return self.reduced


@pytest.mark.parametrize(
    "posing",
    [
        Posing(Path, ("witness",), {"touch": Shell()}),
        Posing(dt.datetime, (Shell(),)),
        Posing(collections.defaultdict, (Shell(),)),
        Posing(np.dtype, ("O", Shell())),
        Posing(torch.optim.Adam, (Shell(), 0.1)),
        Posing(random.Random, (), Shell()),
    ],
)
@FORMATS
@pytest.mark.usefixtures("witness")
def test_a_payload_as_an_argument_does_not_run(posing, zipped, tmp_path):
    file = save({"model": weights(), "beside": posing}, tmp_path / "a", zipped)
    with pytest.raises(DataError, match="refused"), open_published(file):
        pass


@pytest.mark.parametrize("function", [np.load, np.fromfile, torch.load, torch.hub.load, Path.unlink, random.seed])
@pytest.mark.usefixtures("witness")
def test_functions_of_known_modules_are_refused(function, tmp_path):
    file = save({"model": weights(), "beside": Posing(function, ("witness",))}, tmp_path / "a", True)
    with pytest.raises(DataError, match="refused"), open_published(file):
        pass


def test_classes_that_are_passed_over_are_not_called(tmp_path, monkeypatch):
    def fail(*given, **named):
        raise AssertionError("the file's code has run")

    file = save({"model": weights(), "optimizer": moved(), "path": Path("a")}, tmp_path / "a", True)
    for kind in (torch.optim.Adam, torch.optim.Optimizer):
        monkeypatch.setattr(kind, "__setstate__", fail)
        monkeypatch.setattr(kind, "__init__", fail)
    monkeypatch.setattr(torch._utils, "_rebuild_tensor_v2", fail)
    with open_published(file) as published:
        assert set(published.tensors) == {"model.w", "model.b", "model.half"}


def test_numbers_of_numpy_in_arguments_are_numbers(tmp_path):
    record = argparse.Namespace(lr=np.float32(0.25), steps=np.int64(7), on=np.bool_(True), out=Path("a"), seen={1})
    with open_published(save({"w": torch.ones(1), "args": record}, tmp_path / "a", True)) as published:
        arguments = dict(published.arguments)
    assert (arguments["lr"], arguments["steps"], arguments["on"]) == (0.25, 7, True)
    assert [type(arguments[name]) for name in ("lr", "steps", "on")] == [float, int, bool]
    assert str(arguments["out"]).endswith("Path>")
    assert str(arguments["seen"]) == "<builtins.set>"


@pytest.mark.skipif(not CASE.is_file(), reason="the case is not at hand")
def test_the_case_of_an_energy_with_company():
    with open_published(CASE) as published:
        for name in published.tensors:
            assert published.tensors[name].dtype == torch.float16


# -- files that exhaust -----------------------------------------------------------------------------------------------


def test_a_large_number_in_the_memo_takes_no_memory():
    assert read_pickle(io.BytesIO(b"Nr\xff\xff\xff\x7f.")) is None


@pytest.mark.parametrize(
    "made",
    [
        b"ccollections\nOrderedDict\n",
        b"ccollections\nCounter\n",
        b"cargparse\nNamespace\n)R",  # filled by BUILD
    ],
)
def test_a_value_is_not_copied_again_and_again(made):
    pairs = b"(" + b"".join(b"M%c%cN" % (n % 256, n // 256) for n in range(20_000)) + b"d" + b"q\x00"
    again = b"h\x00b0" if made.endswith(b"R") else b"h\x00\x85R0"
    with pytest.raises(DataError, match="more than the file holds"):
        read_pickle(io.BytesIO(pairs + b"0" + (made + again) * 2_000 + b"N."))
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x010"
    encoded = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R0"
    with pytest.raises(DataError, match="more than the file holds"):
        read_pickle(io.BytesIO(text + encoded * 2_000 + b"N."))


def test_numbers_are_short():
    for data in (
        b"I0x" + b"f" * 2_000 + b"\n.",
        b"L0x" + b"f" * 2_000 + b"L\n.",
        b"\x8b\x00\x08\x00\x00" + b"\x7f" * 2_048 + b".",
    ):
        with pytest.raises(DataError, match="a number of more than 512 bytes"):
            read_pickle(io.BytesIO(data))


@pytest.mark.parametrize("where", [b"s", b"\x90", b"\x91"], ids=["key", "set", "frozenset"])
def test_tuples_of_tuples_are_not_hashed(where):
    nested = b"K\x01\x85q\x00" + b"".join(b"0h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
    if where == b"s":
        with pytest.raises(DataError, match="a key is a tuple"):
            read_pickle(io.BytesIO(b"\x80\x04}" + nested + b"K\x01s."))
    else:
        before = b"\x8f(" if where == b"\x90" else b"("
        assert isinstance(read_pickle(io.BytesIO(b"\x80\x04" + before + nested + where + b".")), Inert | tuple)


def test_lengths_that_are_not_there_take_no_memory():
    for opcode in (b"B", b"X"):
        with pytest.raises(DataError, match="damaged"):
            read_pickle(io.BytesIO(opcode + struct.pack("<I", 2**32 - 1) + b"a."))
    for opcode in (b"\x8e", b"\x8d", b"\x96"):
        with pytest.raises(DataError, match="damaged"):
            read_pickle(io.BytesIO(opcode + struct.pack("<Q", 2**62) + b"a."))


def test_a_wide_record_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("genfw.weights.torch_files._MOST_VALUES", 10_000)
    wide = [1, 2]
    for _ in range(40):
        wide = [wide, wide]
    file = save({"args": argparse.Namespace(wide=wide)}, tmp_path / "a", True)
    with pytest.raises(DataError, match="too many values"), open_published(file):
        pass


@pytest.mark.parametrize("name", ["a" * 400, "a\x1b[2J", "\n", "a.b" * 200])
def test_names_of_tensors_are_short_and_printable(name, tmp_path):
    file = save({name: torch.ones(1)}, tmp_path / "a", True)
    with pytest.raises(DataError, match="is no name of a tensor") as caught, open_published(file):
        pass
    assert len(str(caught.value)) < len(str(tmp_path)) + 250
    assert str(caught.value).isprintable()


def test_names_of_a_file_are_shortened_in_messages():
    with pytest.raises(RefusedError) as caught:
        read_pickle(io.BytesIO(b"c" + b"os" * 10_000 + b"\x1b[2J\nsystem\n."))
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    with pytest.raises(DataError, match="damaged") as caught:
        read_pickle(io.BytesIO(b"I" + b"z" * 10_000 + b"\n."))
    assert len(str(caught.value)) < 300


def test_attributes_of_known_things_can_not_be_set():
    """BUILD on a function, a type, a tensor or a list changes nothing in this process."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for target in (call, b"ccollections\nOrderedDict\n", b"]", b"ctorch\nfloat32\n", b"cdatetime\ndatetime\n"):
        with pytest.raises(DataError, match="attributes set on a"):
            read_pickle(io.BytesIO(target + b"N}U\x0c__defaults__K\x01s\x86b."))


@pytest.mark.parametrize("protocol", range(6))
def test_dicts_of_every_protocol_are_plain(protocol):
    value = read_pickle(io.BytesIO(pickle.dumps({"a": {"b": 1}, (1, 2): [b"c", bytearray(b"d")]}, protocol)))
    assert type(value) is Items
    assert value["a"] == {"b": 1}
    assert value[1, 2][0] == b"c"
    inside = read_pickle(io.BytesIO(pickle.dumps([frozenset({3}), {4}, 5], protocol)))
    assert len(inside) == 3
    assert inside[2] == 5

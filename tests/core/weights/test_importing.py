"""Published checkpoints are read as data; what wants to run is refused by name; weights arrive in modules."""

import argparse
import builtins
import collections
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from genfw.errors import ContractError, DataError, PluginError
from genfw.models.model import Model
from genfw.plugins.component import Importer
from genfw.testing.tiny import TinyDecoder, TinyEnergy, TinyPrior
from genfw.weights.importing import Conversion, choose, import_checkpoint
from genfw.weights.load import load_into
from genfw.weights.pickled import RefusedError, read_pickle
from genfw.weights.torch_files import open_published

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(value, path, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def checkpoint():
    """What research code writes: weights, an optimiser that has moved, counters, and its argument record."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 1))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    whole = torch.arange(12.0)
    return {
        "epoch": 7,
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, layers=[1, 2], name="a", on=True, off=None, size=(3, 4)),
        "views": [whole[2:8].view(2, 3).T, whole[::2], nn.Parameter(whole.half()), torch.empty(0, 3), torch.tensor(5)],
        "kinds": {str(dtype): torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.bool, torch.uint8)},
        "sizes": torch.Size([1, 2]),
        "seen": {1, 2},
        "device": torch.device("cpu"),
    }


def flat(value, path=""):
    if isinstance(value, torch.Tensor):
        return {path: value.detach()}
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: t for key, part in inside for name, t in flat(part, f"{path}.{key}" if path else str(key)).items()}


@FORMATS
def test_reads_what_torch_wrote(tmp_path, zipped):
    expected = checkpoint()
    with open_published(save(expected, tmp_path / "a.pth", zipped)) as published:
        tensors = dict(published.tensors)
        assert published.arguments == vars(expected["args"])
    wanted = flat(expected)
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value), name


def test_tensors_are_read_when_asked_for_and_counted_then(tmp_path):
    with open_published(save({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "a.pth")) as published:
        assert "a" in published.tensors
        assert list(published.tensors) == ["a", "b"]
        assert published.tensors.used == set()
        assert torch.equal(published.tensors["b"], torch.zeros(3))
        assert published.tensors.used == {"b"}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(protocol):
    value = {"a": [1, -2, 2**70, 1.5, True, False, None], "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "s": "é\n"}
    value["same"] = value["a"]
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
    assert read_pickle(stream) == value
    assert stream.read() == b"rest"


# -- what wants to run ------------------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Attribute:
    """Of a class that the reader has never heard of."""


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """A file that malicious pickles would make."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "witness"
    assert not (tmp_path / "witness").exists(), "the file's code has run"


MALICIOUS = {
    "os.system": (lambda: Calls(os.system, "touch witness"), f"{os.system.__module__}.system"),
    "eval": (lambda: Calls(eval, "open('witness', 'w')"), "builtins.eval"),
    "exec": (lambda: Calls(exec, "open('witness', 'w')"), "builtins.exec"),
    "getattr chain": (lambda: Calls(getattr, Calls(__import__, "os"), "system"), "builtins.getattr"),
    "import": (lambda: Calls(__import__, "os"), "builtins.__import__"),
    "open": (lambda: Calls(open, "witness", "w"), ".open"),
    "another load": (
        lambda: Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, "touch witness"))),
        "torch.storage._load_from_bytes",
    ),
    "a class of the file's": (Attribute, "Attribute"),
    "a known class's method": (lambda: Calls(collections.OrderedDict.fromkeys, [1]), "builtins.getattr"),
}


@pytest.mark.parametrize("name", MALICIOUS)
@FORMATS
@pytest.mark.usefixtures("witness")
def test_code_is_refused_by_name(name, zipped, tmp_path):
    build, culprit = MALICIOUS[name]
    file = save({"state_dict": {"w": torch.ones(2)}, "args": [build()]}, tmp_path / "bad.pth", zipped)
    with pytest.raises(DataError, match="refused: the file asks for ") as caught, open_published(file):
        pass
    assert culprit in str(caught.value)
    assert "nothing that a file names is ever executed" in str(caught.value)


def zipped_pickle(path, data, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", content)
    return path


HANDMADE = {
    "in a storage's type": (b"((U\x07storagecos\nsystem\nU\x010U\x03cpuK\x02tQ.", "'os.system'"),
    "in a tensor's arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nU\x02lstRt.", "'os.system'"),
    "in a key": (b"}(cbuiltins\neval\nU\x011tRK\x01s.", "'builtins.eval'"),
    "by INST": (b"(U\x0dtouch witnessios\nsystem\n.", "the opcode INST"),
    "by OBJ": (b"(U\x01aU\x01bo.", "the opcode OBJ"),
    "by STACK_GLOBAL": (b"\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
    "by a dotted STACK_GLOBAL": (b"\x8c\x05torch\x8c\x09os.system\x93.", "'torch.os.system'"),
    "by NEWOBJ_EX": (b"(U\x01a)}\x92.", "the opcode NEWOBJ_EX"),
    "by an extension code": (b"\x82\x01.", "the opcode EXT1"),
    "by PERSID": (b"Pos.system\n.", "the opcode PERSID"),
    "by a buffer": (b"\x97.", "the opcode NEXT_BUFFER"),
}


@pytest.mark.parametrize("name", HANDMADE)
@pytest.mark.usefixtures("witness")
def test_code_is_refused_wherever_it_hides(name, tmp_path):
    data, culprit = HANDMADE[name]
    with pytest.raises(RefusedError) as caught:
        read_pickle(io.BytesIO(data))
    assert culprit in str(caught.value)
    with pytest.raises(DataError, match="refused"), open_published(zipped_pickle(tmp_path / "bad.pth", data)):
        pass


def test_nothing_is_imported_for_a_name(monkeypatch):
    imported = []
    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: imported.append(name) or original(name, *rest))
    with pytest.raises(RefusedError, match=r"'this\.s'"):
        read_pickle(io.BytesIO(b"cthis\ns\n."))
    assert "this" not in sys.modules
    assert "this" not in imported


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"}",
        b"\x00.",
        b"K",
        b".",
        b"t.",
        b"K\x01a.",
        b"h\x05.",
        b"}]K\x01s.",  # a list as key
        b"K\x01)R.",  # a call of a number
        b"ccollections\nOrderedDict\n(K\x01K\x02tR.",
        b"cargparse\nNamespace\n)\x81K\x01b.",  # attributes that are a number
        b"]}b.",  # attributes on a list
        b"(U\x07storagecargparse\nNamespace\nU\x010U\x03cpuK\x02tQ.",
        b"ctorch\nSize\n((I-1\ntt\x85R.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.",  # a text of 2^63 bytes
        b"]" * 3 + b"s.",
    ],
)
def test_damaged_pickles_are_told_of(data):
    with pytest.raises(DataError, match="damaged"):
        read_pickle(io.BytesIO(data))


# -- files ------------------------------------------------------------------------------------------------------------


def tensor_pickle(size, stride, offset=0, count=4):
    """A dict with one tensor, by hand."""

    class Stored:
        pass

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(value, Stored) else None

    out = io.BytesIO()
    call = Calls(torch._utils._rebuild_tensor_v2, Stored(), offset, size, stride, False, collections.OrderedDict())
    Writer(out, 2).dump({"w": call})
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2,), (4,), 0), ((2,), (1,), 3), ((10**12,), (0,), 0)],
)
def test_a_view_beyond_its_numbers_is_refused(size, stride, offset, tmp_path):
    file = zipped_pickle(tmp_path / "a.pth", tensor_pickle(size, stride, offset), data__0=bytes(16))
    with pytest.raises(DataError, match="reaches beyond its 4 numbers"), open_published(file) as published:
        published.tensors["w"]


def test_a_good_view_by_hand(tmp_path):
    data = struct.pack("=4f", 1, 2, 3, 4)
    with open_published(zipped_pickle(tmp_path / "a.pth", tensor_pickle((2, 2), (1, 2)), data__0=data)) as published:
        assert published.tensors["w"].tolist() == [[1, 3], [2, 4]]


def test_wrong_files_are_told_of(tmp_path):
    good = save({"w": torch.arange(1000.0)}, tmp_path / "old.pth", zipped=False).read_bytes()
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle((4,), (1,)))
    cases = {
        "absent.pth": (None, "there is no file"),
        "empty.pth": (b"", "the file is empty"),
        "text.pth": (b"hello, this is no checkpoint at all\n", "no checkpoint of torch.save"),
        "other.pth": (pickle.dumps({"a": 1}), "no checkpoint of torch.save"),
        "cut.pth": (good[:-100], "cut short"),
        "packed.pth": (..., "is compressed or too large"),
    }
    zipped_pickle(tmp_path / "short.pth", tensor_pickle((4,), (1,)), data__0=bytes(15))
    zipped_pickle(tmp_path / "lacks.pth", tensor_pickle((4,), (1,)))
    other = "big" if sys.byteorder == "little" else "little"
    zipped_pickle(tmp_path / "order.pth", tensor_pickle((4,), (1,)), data__0=bytes(16), byteorder=other)
    with zipfile.ZipFile(tmp_path / "none.pth", "w") as archive:
        archive.writestr("readme", "")
    cases |= {
        "short.pth": (..., "needs 4 numbers, and 15 bytes"),
        "lacks.pth": (..., "has no archive/data/0"),
        "order.pth": (..., "byte order"),
        "none.pth": (..., "no data.pkl"),
    }
    for name, (content, message) in cases.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught, open_published(tmp_path / name) as published:
            dict(published.tensors)
        assert name in str(caught.value)


def test_a_file_that_only_exhausts_the_reader_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("genfw.weights.torch_files._MOST_VALUES", 10_000)
    deep: list = []
    for _ in range(100):
        deep = [deep]
    wide = [1, 2]
    for _ in range(40):
        wide = [wide, wide]  # 2^40 values out of 40 lists
    for name, value in (("deep", deep), ("wide", wide)):
        with pytest.raises(DataError, match="too deep"), open_published(save(value, tmp_path / name)):
            pass


# -- conversion -------------------------------------------------------------------------------------------------------


def read_tiny(tensors, arguments):
    """The energy and the decoder of :mod:`genfw.testing.tiny`, as somebody may have published them."""
    parts = {"energy": "E", "decoder": "G"}
    found = {
        f"{role}.{name[2:]}": tensors[name]
        for role, theirs in parts.items()
        for name in tensors
        if name.startswith(theirs + ".")
    }
    return Conversion(found, {role: {"use": "tiny", **arguments} for role in {name.split(".")[0] for name in found}})


def read_nothing(tensors, arguments):
    return Conversion({}, {})


def read_strange(tensors, arguments):
    return Conversion({"weights.w": tensors["a"]}, {})


def importer(function):
    return Importer("tiny", f"{__name__}:{function.__name__}", "a tiny one")


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    parts = {"E": TinyEnergy().state_dict(), "G": TinyDecoder().state_dict(), "extra": {"step": torch.ones(1)}}
    return save({**parts, "args": argparse.Namespace(width=2, inf=float("inf"))}, tmp_path / "best.pth.tar")


def test_import_writes_weights_and_card(published, tmp_path):
    done = import_checkpoint([importer(read_nothing), importer(read_tiny)], published)
    assert (done.weights.name, done.card.name) == ("tiny-best.pth.safetensors", "tiny-best.pth.json")
    card = json.loads(done.card.read_text())
    assert card == json.loads(json.dumps(done.content))
    assert card["sha256"] == sha256(published.read_bytes()).hexdigest()
    assert card["source"] == "best.pth.tar"
    assert card["unused"] == ["extra.step"]
    assert card["arguments"] == {"width": 2, "inf": "inf"}
    assert card["architecture"]["energy"]["use"] == "tiny"
    stored = load_file(done.weights)
    assert card["tensors"] == len(stored)
    assert card["parameters"] == sum(value.numel() for value in stored.values())
    with pytest.raises(DataError, match="is there already; name another file with --out"):
        import_checkpoint([importer(read_tiny)], published)
    with pytest.raises(DataError, match=r"--out ends in \.safetensors; got a\.json"):
        import_checkpoint([importer(read_tiny)], published, "a.json")


def test_weights_arrive_in_a_model_and_in_a_part(published):
    done = import_checkpoint([importer(read_tiny)], published)
    torch.manual_seed(3)
    energy, decoder = TinyEnergy(), TinyDecoder()
    model = Model(TinyPrior(), TinyDecoder(), energy=TinyEnergy())
    assert load_into(model, done.weights) == ()
    for part, expected in ((model.energies[0], energy), (model.decoder, decoder)):
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in part.state_dict().items())
    alone = TinyEnergy()
    load_into(alone, done.weights)
    assert all(torch.equal(value, energy.state_dict()[name]) for name, value in alone.state_dict().items())
    other = Model(TinyPrior(), TinyDecoder())
    with pytest.raises(
        ContractError, match=r"nothing to load as 'energy': .* has decoder, energy, and Model has prior"
    ):
        load_into(other, done.weights)
    load_into(other, done.weights, roles=["decoder"])
    assert torch.equal(next(other.decoder.parameters()), next(decoder.parameters()))


def test_weights_that_do_not_fit_are_told_of(published, tmp_path):
    done = import_checkpoint([importer(read_tiny)], published)
    energy = TinyEnergy()
    energy.register_parameter("more", nn.Parameter(torch.ones(1)))
    with pytest.raises(ContractError, match="does not fit TinyEnergy: 'more' is not in the file"):
        load_into(energy, done.weights)
    energy = TinyEnergy()
    name, first = next(iter(energy.named_parameters()))
    first.data = torch.zeros(*first.shape, 2)
    with pytest.raises(ContractError, match=f"'{name}' has shape"):
        load_into(energy, done.weights)
    energy = TinyEnergy()
    energy.register_buffer("vectors", torch.ones(2))
    assert load_into(energy, done.weights) == ("energy.vectors",)
    (tmp_path / "no.safetensors").write_text("{}")
    with pytest.raises(DataError, match="is not a safetensors file"):
        load_into(energy, tmp_path / "no.safetensors")
    with pytest.raises(DataError, match="there is no file"):
        load_into(energy, tmp_path / "absent.safetensors")


def test_importers_that_can_not_be_used(published, tmp_path):
    save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="holds nothing that importer 'tiny' knows; its tensors are a"):
        import_checkpoint([importer(read_tiny)], tmp_path / "other.pth")
    with pytest.raises(PluginError, match=r"tensors of no role \(prior, decoder.*: weights\.w"):
        import_checkpoint([importer(read_strange)], tmp_path / "other.pth")
    with pytest.raises(PluginError, match="can't be imported"):
        import_checkpoint([Importer("tiny", f"{__name__}:absent", "")], tmp_path / "other.pth")
    assert not list(tmp_path.glob("*.safetensors"))


# -- several networks in a file ---------------------------------------------------------------------------------------


def read_one(tensors, arguments):
    """The one network that has a weight ``w``."""
    places = [name.removesuffix("w") for name in tensors if f".{name}".endswith(".w")]
    place = choose(tensors, places, "energy")
    return Conversion({} if place is None else {"energy.w": tensors[f"{place}w"]}, {})


def read_average(tensors, arguments):
    """The same, of which the average is taken where none is picked."""
    place = choose(tensors, ["ema.params.", "model."], "energy", default="ema.params.")
    return Conversion({"energy.w": tensors[f"{place}w"]}, {})


@pytest.fixture
def several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks = {"model": {"w": torch.zeros(2)}, "ema": {"decay": 0.9, "params": {"w": torch.ones(2)}}}
    return save({**networks, "emanation": torch.ones(1)}, tmp_path / "several.pth")


@pytest.mark.parametrize(("pick", "value"), [("model", 0.0), ("ema", 1.0), ("ema.params", 1.0)])
def test_a_pick_chooses_one_of_several_networks(several, pick, value):
    for function in (read_one, read_average):
        done = import_checkpoint([importer(function)], several, f"{function.__name__}.safetensors", pick=[pick])
        assert load_file(done.weights)["energy.w"].tolist() == [value, value]
        assert json.loads(done.card.read_text())["picked"] == [pick]


def test_several_networks_without_a_pick(several, tmp_path):
    with pytest.raises(
        DataError, match=r"one energy was expected, the file has 2; choose .* by --pick: model, ema\.params"
    ):
        import_checkpoint([importer(read_one)], several)
    done = import_checkpoint([importer(read_average)], several)
    assert load_file(done.weights)["energy.w"].tolist() == [1.0, 1.0]
    both = save(
        {"a": {"m": {"w": torch.ones(1)}, "n": {"w": torch.ones(1)}}, "b": {"w": torch.ones(1)}}, tmp_path / "b"
    )
    with pytest.raises(DataError, match=r"by --pick: a\.m, a\.n$"):
        import_checkpoint([importer(read_one)], both, pick=["a"])


@pytest.mark.parametrize("pick", ["em", "emanation", "params", "optimizer"])
def test_a_pick_that_chooses_nothing(several, pick, tmp_path):
    message = f"there is no network '{pick}' in .*several.pth that importer 'tiny' reads; it found ema.params, model"
    with pytest.raises(DataError, match=message):
        import_checkpoint([importer(read_average)], several, pick=[pick])
    with pytest.raises(DataError, match="it found none"):
        import_checkpoint([importer(read_nothing)], several, pick=[pick])
    assert not list(tmp_path.glob("*.safetensors"))


def test_picks_for_several_importers_of_one_file(tmp_path, monkeypatch):
    """Each importer takes the pick that is among its own networks, and needs none where it has one network."""
    monkeypatch.chdir(tmp_path)

    networks = {name: {"p": torch.full((1,), number)} for number, name in enumerate(("E", "E_ema", "G"))}
    file = save(networks, tmp_path / "a.pth")
    done = import_checkpoint([importer(read_energies), importer(read_generator)], file, pick=["E_ema"])
    found = load_file(done.weights)
    assert (found["energy.p"].item(), found["decoder.p"].item()) == (1, 2)


def read_energies(tensors, arguments):
    return Conversion({"energy.p": tensors[f"{choose(tensors, ['E.', 'E_ema.'], 'energy')}p"]}, {})


def read_generator(tensors, arguments):
    return Conversion({"decoder.p": tensors[f"{choose(tensors, ['G.'], 'generator')}p"]}, {})

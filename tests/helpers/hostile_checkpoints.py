"""Hostile checkpoints, for ``genfw import``."""

from __future__ import annotations

import functools
import io
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hostile import MARKER, Hostile, Right, command
from places import SHARED

_KINDS = ("vaebm-energy", "stylegan", "lebm")
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


class Shell:
    """Runs where Python's own unpickler reads it."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {MARKER}",)


class _Evaluated:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (f"open({MARKER!r}, 'w').close()",)


@functools.cache
def valid(zipped: bool = True) -> bytes:
    """A checkpoint as people have them."""
    buffer = io.BytesIO()
    value = {"state_dict": {"w": torch.arange(12.0).view(3, 4), "b": torch.ones(2)}, "epoch": 3}
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _zipped(data: bytes, **others: bytes) -> bytes:
    """A zip as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/byteorder", others.pop("byteorder", b"little"))
        for name, content in others.items():
            archive.writestr(f"a/{name.replace('__', '/')}", content)
    return buffer.getvalue()


def _forms(data: bytes) -> dict[str, bytes]:
    return {"zip": _zipped(data), "legacy": _MAGIC + data + pickle.dumps([], 2), "plain": data}


def _double(levels: int) -> bytes:
    """A tuple of itself twice, and so on: two bytes a level."""
    return b"K\x01" + b"2\x86" * levels


#: Name -> a pickle.
PICKLES: dict[str, bytes] = {
    "a shell": pickle.dumps({"w": Shell()}, 2),
    "a shell, protocol 5": pickle.dumps({"w": Shell()}, 5),
    "exec": pickle.dumps([_Evaluated()], 4),
    "a shell by INST": b"(S'touch " + MARKER.encode() + b"'\nios\nsystem\n.",
    "a shell by OBJ": b"(cos\nsystem\nS'touch " + MARKER.encode() + b"'\no.",
    "nested tuples": b"\x80\x02" + _double(180) + b".",
    "nested tuples as a key": b"\x80\x02}" + _double(180) + b"K\x01s.",
    "nested tuples as a reference": b"\x80\x02" + _double(180) + b"Q.",
    "nested tuples in a reference": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    + (_double(180) + b"X\x03\x00\x00\x00cpuK\x01tQ."),
    "nested tuples as a name": b"\x80\x04" + _double(180) + b"X\x01\x00\x00\x00a\x93.",
    "nested tuples as arguments": b"\x80\x02ccollections\nOrderedDict\n" + _double(180) + b"R.",
    "nested tuples as a size": b"\x80\x02ctorch\nSize\n" + _double(180) + b"R.",
    "nested tuples as a state": b"\x80\x02cargparse\nNamespace\n)\x81" + _double(180) + b"b.",
    "nested tuples of a stranger": b"\x80\x02cos\nsystem\n" + _double(180) + b"R.",
    "nested tuples in a set": b"\x80\x04\x8f(" + _double(180) + b"\x90.",
    "nested tuples, called": b"\x80\x02" + _double(180) + b")R.",
    "100,000 lists in one another": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a number of 5,000 digits": b"I" + b"9" * 5_000 + b"\n.",
    "a number of 10 MB": b"\x80\x02\x8b" + struct.pack("<i", 10_000_000) + b"\x7f" * 10_000_000 + b".",
    "a text of 2**62": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "bytes of 2**40": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray of 2**40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "a frame of 2**62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01.",
    "a memo of 2**31": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "a stack that is empty": b"\x80\x02t.",
    "no end": b"\x80\x02(((((",
    "a name of 1 MB": b"c" + b"x" * 1_000_000 + b"\ny\n.",
    "a name with control characters": b"cos\x1b[31m\nsys\x07tem\n.",
    "a key of 1 MB": b"\x80\x02}X" + struct.pack("<I", 1_000_000) + b"k" * 1_000_000 + b"K\x01s.",
    "2,000,000 values": b"\x80\x02](" + b"K\x01" * 2_000_000 + b"e.",
    "an extension": b"\x80\x02\x82\x01.",
    "protocol 99": b"\x80\x63K\x01.",
}  # fmt: skip


def _tensor(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], bytes_there: int = 16) -> bytes:
    """A tensor that says of itself what is not so."""
    storage = ("storage", "FloatStorage", "0", "cpu", count)
    out = io.BytesIO()
    out.write(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n")
    out.write(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu")
    for value in (storage[4],):
        out.write(pickle.dumps(value, 2)[2:-1])
    out.write(b"tQ")
    for part in (offset, size, stride, False, None):
        out.write(pickle.dumps(part, 2)[2:-1].replace(b"q\x00", b""))
    out.write(b"tR.")
    return _zipped(out.getvalue(), data__0=b"\0" * bytes_there)


#: Name -> a zip whose tensor lies.
TENSORS: dict[str, Callable[[], bytes]] = {
    "2**62 numbers": lambda: _tensor(2**62, 0, (2**62,), (1,)),
    "a shape beyond the numbers": lambda: _tensor(4, 0, (1_000, 1_000), (1_000, 1)),
    "an offset beyond the numbers": lambda: _tensor(4, 10**6, (2,), (1,)),
    "one number as 10**12": lambda: _tensor(4, 0, (10**6, 10**6), (0, 0)),
    "one number as 2**62": lambda: _tensor(4, 0, (2**62,), (0,)),
    "64 dimensions of 2": lambda: _tensor(4, 0, (2,) * 64, (0,) * 64),
    "negative size": lambda: _tensor(4, 0, (-1,), (1,)),
    "fewer bytes than numbers": lambda: _tensor(400, 0, (400,), (1,)),
}


def _archive(change: Callable[[bytearray], object]) -> Callable[[], bytes]:
    """A valid zip after a change of its bytes."""

    def made() -> bytes:
        content = bytearray(valid())
        change(content)
        return bytes(content)

    return made


def _entry(content: bytearray, offset: int, value: bytes, *, local: int | None = None) -> None:
    """Write into the first record of the directory, and of the entry itself."""
    at = content.find(b"PK\x01\x02")
    content[at + offset : at + offset + len(value)] = value
    if local is not None:
        content[local : local + len(value)] = value


@functools.cache
def bomb(name: str = "a/data.pkl", megabytes: int = 1_500) -> bytes:
    """Zeros that are small while they are packed: one packed piece again and again, so that they are made soon."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(10_000_000)
    first = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = first * (megabytes // 10) + packer.flush()
    check = 0
    for _ in range(megabytes // 10):
        check = zlib.crc32(piece, check)
    sizes = struct.pack("<III", check, len(packed), megabytes // 10 * len(piece))
    facts = struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", len(name), 0)
    entry = b"PK\x03\x04" + facts + name.encode() + packed
    record = b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    return entry + record + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(record), len(entry), 0)


def _named(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, pickle.dumps({}, 2))
    return buffer.getvalue()


#: Name -> a zip that lies about itself.
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "encrypted": _archive(lambda content: _entry(content, 8, b"\x01\x00", local=6)),
    "a method of 99": _archive(lambda content: _entry(content, 10, b"\x63\x00", local=8)),
    "a method of 8 that is not": _archive(lambda content: _entry(content, 10, b"\x08\x00", local=8)),
    "version 99 needed": _archive(lambda content: _entry(content, 6, b"\x63\x00", local=4)),
    "a size of 4 GB": _archive(lambda content: _entry(content, 20, b"\xfe\xff\xff\xff" * 2)),
    "a checksum that is wrong": _archive(lambda content: _entry(content, 16, b"\0\0\0\0", local=14)),
    "an entry beyond the end": _archive(lambda content: _entry(content, 42, b"\xfe\xff\xff\x7f")),
    "a directory of 65,535": _archive(lambda content: content.__setitem__(slice(-14, -10), b"\xff\xff\xff\xff")),
    "a directory at 4 GB": _archive(lambda content: content.__setitem__(slice(-6, -2), b"\xfe\xff\xff\xff")),
    "a comment that is not there": _archive(lambda content: content.__setitem__(slice(-2, None), b"\xff\xff")),
    "patched data": _archive(lambda content: _entry(content, 8, b"\x20\x00", local=6)),
    "no entry": lambda: _named(),
    "two pickles": lambda: _named("a/data.pkl", "b/data.pkl"),
    "one pickle twice": lambda: _named("a/data.pkl", "a/data.pkl "),
    "paths that lead out": lambda: _named("../data.pkl", "../../etc/passwd"),
    "a name with control characters": lambda: _named("\x1b[31m/data.pkl"),
    "a name of 60,000": lambda: _named("x" * 60_000 + "/data.pkl"),
    "50,000 entries": lambda: _named("a/data.pkl", *(f"a/x{n}" for n in range(50_000))),
    "1.5 GB of zeros, packed": lambda: bomb(),
    "another byte order": lambda: _zipped(pickle.dumps({}, 2), byteorder=b"big"),
    "a byte order of 1 MB": lambda: _zipped(pickle.dumps({}, 2), byteorder=b"x" * 1_000_000),
    "a byte order that is no text": lambda: _zipped(pickle.dumps({}, 2), byteorder=b"\xff\x1b[31m"),
}

#: Name -> a file.
FILES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "one byte": lambda: b"P",
    "zeros": lambda: b"\0" * 10_000,
    "a text": lambda: b"weights\n",
    "a web page": lambda: b"<!DOCTYPE html><html>",
    "a pointer of git-lfs": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "the magic number alone": lambda: _MAGIC[:20],
    "legacy keys of nested tuples": lambda: _MAGIC + pickle.dumps({}, 2) + b"\x80\x02]" + _double(180) + b"a.",
    "legacy numbers of 2**62": lambda: _MAGIC + pickle.dumps({}, 2) + pickle.dumps(["0"], 2) + struct.pack("<q", 2**62),
    "a byte order of nested tuples": lambda: _MAGIC[:-1].rpartition(b"\x80\x02")[0] + b"\x80\x02" + _double(180) + b".",
}


def _case(kind: str, name: str, content: Callable[[], bytes], right: Right = "refused", quick: bool = False) -> Hostile:
    def make(folder: Path) -> None:
        (folder / "w.pth").write_bytes(content())

    use = command("import", kind, "w.pth", "--out", "out.safetensors", "--no-plugins")
    return Hostile(f"checkpoint: {name}, as {kind}", make, use, right, quick)


def _flipped(seed: int, zipped: bool) -> bytes:
    chance, content = random.Random(seed), bytearray(valid(zipped))
    for _ in range(chance.choice([1, 3, 20])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])


def cases() -> Iterator[Hostile]:
    """All of them."""
    for number, (name, data) in enumerate(PICKLES.items()):
        for form, content in _forms(data).items():
            kind = "stylegan" if form == "plain" else _KINDS[number % 3]
            quick = form == "zip" and name.startswith(("a shell", "nested"))
            yield _case(kind, f"{name} ({form})", lambda content=content: content, quick=quick)
    for name, made in TENSORS.items():
        yield _case("lebm", f"a tensor of {name}", made, quick=True)
    for number, (name, made) in enumerate(ARCHIVES.items()):
        yield _case("vaebm-energy", f"a zip with {name}", made, quick=number % 3 == 0)
    for name, made in FILES.items():
        for kind in _KINDS:
            yield _case(kind, name, made, quick=kind == "lebm" and "nested" in name)
    for seed in range(30):
        for zipped in (True, False):
            yield _case(
                _KINDS[seed % 3], f"bits flipped, seed {seed}, zip {zipped}", functools.partial(_flipped, seed, zipped)
            )
    yield _case("vaebm-energy", "weights that are not finite", _weights, quick=(SHARED / "cases").is_dir())
    company = SHARED / "cases" / "energy-with-company.pth"
    if company.exists():
        yield _case("vaebm-energy", "good weights in odd company", company.read_bytes, "ok", quick=True)


def _weights() -> bytes:
    """A good file of weights with NaN at the front of each; nothing where there is no file to begin with."""
    source = SHARED / "cases" / "energy-with-company.pth"
    if not source.exists():
        return b""
    content = bytearray(source.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as copy:
            for info in archive.infolist():
                data = archive.read(info)
                if "/data/" in info.filename:
                    data = b"\xff" * len(data[:8]) + data[8:]  # NaN, whatever the width
                copy.writestr(info.filename, data)
    return buffer.getvalue()

"""Tensors are written whole, whatever memory they share, and a disk that is full is named."""

import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

from genfw.errors import RunError
from genfw.runs.tensors import save_tensors


def test_views_and_names_for_one_memory_come_back_by_value(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {
        "base": base,
        "again": base,
        "row": base[1],
        "turned": base.t(),
        "none": torch.zeros(0),
        "other": base[1],
    }
    save_tensors(tmp_path / "new" / "file.safetensors", tensors, {"kind": "test"})
    found = load_file(tmp_path / "new" / "file.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_disk_that_is_full_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"t": torch.zeros(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(RunError, match=r"file\.safetensors can't be written: .*File too large") as error:
            save_tensors(path, {"t": torch.zeros(10_000)})
        assert str(error.value).count("file.safetensors") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert torch.equal(load_file(path)["t"], torch.zeros(3))
    assert [left.name for left in tmp_path.iterdir()] == [path.name]

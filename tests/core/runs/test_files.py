"""Files of a run: what a full disk says."""

import errno
from pathlib import Path

import pytest

from genfw.errors import is_disk_fault
from genfw.runs.files import naming, write_atomically
from genfw.runs.rows import append_row

#: A device that takes no byte; Linux has it.
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_row_that_does_not_fit_names_its_file():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'") as raised:
        append_row(FULL, {"step": 1})
    assert is_disk_fault(raised.value)


def test_a_file_that_does_not_fit_is_named_and_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "STATUS"
    write_atomically(path, "old")

    def full(*_, **__):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="STATUS") as raised:
        write_atomically(path, "new")
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["STATUS"]


def test_an_error_that_names_a_file_keeps_its_name():
    with pytest.raises(FileNotFoundError) as raised, naming(Path("other")):
        Path("/nowhere/at/all").read_text()
    assert raised.value.filename == "/nowhere/at/all"

"""Where data lies, and how to say that it does not."""

from __future__ import annotations

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs

from genfw.errors import AbsentDataError
from genfw.interfaces import Dataset

T = TypeVar("T")


def data_home() -> Path:
    """The folder that holds one folder per data set: ``$GENFW_DATA``, or ``~/.cache/genfw``."""
    return Path(os.path.expanduser(os.environ.get("GENFW_DATA") or "~/.cache/genfw"))


def folders(root: Path | None, name: str) -> list[Path]:
    """Where the set ``name`` may lie, first choice first: ``root`` and its folder ``name``, or data home's."""
    if root is None:
        return [data_home() / name, data_home()]
    return [Path(os.path.expanduser(root)), Path(os.path.expanduser(root)) / name]


def download_folder(root: Path | None, name: str) -> Path:
    """Where the files of the set ``name`` are put when they are fetched."""
    return folders(root, name)[0]


def find_file(places: Iterable[Path], *names: str) -> Path | None:
    """The first of ``names`` that exists in the first of ``places`` that has one; a file or a folder."""
    for place in places:
        for name in names:
            if (place / name).exists():
                return place / name
    return None


def absent(what: str, looked: Iterable[Path], remedy: str) -> AbsentDataError:
    """The error for files that are not there: what, where it was looked for, what to do."""
    places = ", ".join(dict.fromkeys(str(place) for place in looked))
    return AbsentDataError(f"{what} is absent; looked in {places}. {remedy}")


def fetched(what: str, folder: Path, remedy: str, fetch: Callable[[], Any]) -> Any:
    """Run a download, while no other process of this machine runs one into the same folder.

    Arguments:
        what: What is fetched, for the error.
        folder: Where it is put.
        remedy: What to do by hand where the download fails.
        fetch: The download.

    Returns:
        What ``fetch`` returns.

    Raises:
        AbsentDataError: There is no network, the address is gone, or what came is not what was expected.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return fetch()
    except (OSError, RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.rstrip(".")
        raise AbsentDataError(f"{what} is absent and can't be downloaded to {folder}: {reason}. {remedy}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for the folder's lock, which the system frees when its holder ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@attrs.define(kw_only=True, eq=False, slots=False)
class FetchedDataset(Dataset):
    """A set whose files are fetched by its name.

    Arguments:
        root: Folder of the files; the folder named as the set in ``$GENFW_DATA``, or in ``~/.cache/genfw``, where
            absent.
        download: Fetch the files where they are absent.
    """

    root: Path | None = None
    download: bool = True

    def there(self, find: Callable[..., T | None], missing: Callable[..., AbsentDataError], *asked: str) -> T | None:
        """What is on this machine; ``None`` where it would have to be fetched.

        Arguments:
            find: Looks for it.
            missing: Makes the error that names where it was looked for.
            asked: What the two are called with.

        Raises:
            AbsentDataError: It is not here, and may not be fetched.
        """
        found = find(*asked)
        if found is None and not self.download:
            raise missing(*asked)
        return found

    def obtained(
        self,
        find: Callable[..., T | None],
        fetch: Callable[..., object],
        missing: Callable[..., AbsentDataError],
        *asked: str,
    ) -> T:
        """What is on this machine, fetched first where it is not and may be; arguments as for :meth:`there`.

        Raises:
            AbsentDataError: It can't be had.
        """
        found = self.there(find, missing, *asked)
        if found is None:
            fetch(*asked)
            found = find(*asked)
        if found is None:
            raise missing(*asked)
        return found

"""Published weights of measuring networks: where they lie, how they are fetched, how they are proved."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from genfw.errors import DataError
from genfw.runs.files import hash_file


def fetched(url: str, *, begins: str, what: str, instead: str, download: bool = True) -> Path:
    """A published file: where it lies, else downloaded to where torch keeps such files.

    Arguments:
        url: Where it is published; its last part is the file's name.
        begins: How its SHA-256 begins; empty where unknown.
        what: What it is, for the error.
        instead: What else to do, for the error.
        download: Whether it may be; a smoke run downloads nothing.

    Raises:
        DataError: It is absent and there is no network, or it may not be used.
    """
    file = url.rpartition("/")[2]
    own = Path(os.path.expanduser(os.environ.get("GENFW_CACHE") or "~/.cache/genfw")) / "weights" / file
    hub = Path(torch.hub.get_dir()) / "checkpoints" / file
    for path in (own, hub):
        if path.is_file():
            return path
    try:
        if not download:
            raise OSError("a smoke run downloads nothing")
        hub.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(hub), hash_prefix=begins or None, progress=False)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{what} are absent and can't be downloaded: {reason}. Looked in {own} and {hub}. Fetch {url} where there "
            f"is a network and put it in one of these places, or {instead}"
        ) from error
    return hub


def proved(path: Path, sha256: str) -> str:
    """The file's SHA-256, if it begins as it should: it is a pickle, and is not opened before that.

    Arguments:
        path: The file.
        sha256: How its hash begins.

    Raises:
        DataError: The file is absent or another one.
    """
    try:
        found = hash_file(path)
    except OSError as error:
        raise DataError(f"the weights {path} can't be read: {error.strerror or error}") from error
    if not found.startswith(sha256.lower()):
        raise DataError(
            f"{path} is not the file of weights that is wanted: its SHA-256 is {found}, wanted is one that begins "
            f"with {sha256}. Fetch it again, or state the hash of a file you trust by 'sha256'"
        )
    return found

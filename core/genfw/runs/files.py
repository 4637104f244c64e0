"""Files that are whole after a crash; no torch, so that listing runs is quick."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["hash_file", "sync_file", "sync_folder", "write_atomically"]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file by ``text`` in one step: a reader, and whoever comes after a crash, finds the old text or the new.

    Arguments:
        path: The file.
        text: Its new content.
        durable: Wait until the disk has it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's list of names."""
    if os.name == "nt":  # folders can't be opened there, and renames are durable without it
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Wait until the disk has a file's content."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""A copy of a run directory in another file system, such as ``s3://``, by fsspec."""

from __future__ import annotations

from pathlib import Path

from fsspec.core import url_to_fs

from genfw.errors import RunError

#: What makes a folder a checkpoint: written last, removed first, so that a copy that stops midway is none.
_SEAL = "checkpoint.json"


class Mirror:
    """Copies a run directory to a folder of its name elsewhere, file by file, and back.

    Arguments:
        url: The folder of all runs there, such as ``s3://bucket/runs``.
        path: The run directory.

    Raises:
        RunError: There is no such file system, or its package is not installed.
    """

    def __init__(self, url: str, path: Path) -> None:
        self.path = path
        try:
            self._files, self._base = url_to_fs(f"{url.rstrip('/')}/{path.name}")
        except (ImportError, ValueError) as error:
            raise RunError(f"engine.mirror is '{url}', which can't be opened: {error}") from error
        # What an earlier process copied is copied anew where it differs in size, and removed where it is gone.
        there = self._files.find(self._base, detail=True) if self._files.exists(self._base) else {}
        self._known: dict[str, tuple[int, int]] = {
            name[len(self._base) :].lstrip("/"): (facts["size"], -1) for name, facts in there.items()
        }

    def push(self) -> None:
        """Copy what has changed since the last call, and remove there what is gone here."""
        here = {}
        for file in self.path.rglob("*"):
            parts = file.relative_to(self.path).parts
            if file.is_file() and parts != ("LOCK",) and not any(part[0] == "." for part in parts):
                facts = file.stat()
                here["/".join(parts)] = (facts.st_size, facts.st_mtime_ns)
        for name in sorted(self._known.keys() - here.keys(), key=lambda name: not name.endswith(_SEAL)):
            self._files.rm_file(f"{self._base}/{name}")
            del self._known[name]
        for name in sorted(here, key=lambda name: (name.endswith(_SEAL), name)):
            if self._known.get(name) != here[name]:
                self._files.makedirs(f"{self._base}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(self.path / name), f"{self._base}/{name}")
                self._known[name] = here[name]

    def pull(self) -> bool:
        """Copy the run here, where there is none; returns whether there was one to copy."""
        if (self.path / "resolved.yaml").exists() or "resolved.yaml" not in self._known:
            return False
        # The resolved recipe makes a folder a run, so it comes last.
        for name in sorted(self._known, key=lambda name: name == "resolved.yaml"):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{self._base}/{name}", str(self.path / name))
        return True


def try_push(mirror: Mirror | None) -> str:
    """Copy a run to its mirror, if it has one; returns why that failed, which must not stop the run.

    Arguments:
        mirror: The mirror.
    """
    try:
        if mirror is not None:
            mirror.push()
    except Exception as error:
        return f"the run was not copied to its mirror ({type(error).__name__}: {error}); the next copy takes all"
    return ""

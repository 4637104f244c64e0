"""The environment of a run: versions, plugins, hardware, source."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genfw import __version__
from genfw.plugins.registry import Registry
from genfw.runs.files import read_records

_PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "lightning-fabric",
    "pluggy",
    "attrs",
    "PyYAML",
    "torch-fidelity",
    "torchvision",
    "scikit-learn",
    "arviz-stats",
)


def describe_environment(registry: Registry | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Everything outside the recipe that results can depend on.

    Arguments:
        registry: The plugins.
        folder: Folder in the git repository to record, such as the recipe's; the working directory by default.
    """
    return {
        "genfw": __version__,
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "plugins": [
            {
                "name": plugin.name,
                "version": plugin.version,
                "source": plugin.source,
                "file": plugin.file,
                "code": code_digest(Path(plugin.file).parent, plugin.source),
            }
            for plugin in (registry.plugins if registry is not None else ())
        ],
        "code": code_digest(Path(__file__).parent),
        "git": _git(folder or Path.cwd()),
        "hardware": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
        "command": sys.argv,
    }


def overrides(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the command line that began a run changed its recipe: ``("--set", "PATH=VALUE")``, ``("--unset", "PATH")``.

    Arguments:
        environment: The run's ``environment.json``.
    """
    first = [*read_records(environment.get("before")), environment][0]  # who resumes a run repeats no settings
    words = first.get("command")
    pairs = itertools.pairwise(map(str, words)) if isinstance(words, list) else ()
    return [(word, value) for word, value in pairs if word in ("--set", "--unset")]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences on changes between two environments that may affect a resumed run."""
    changed = []
    for name in ("genfw", "python"):
        if before.get(name) != now.get(name):
            changed.append(f"{name} was {before.get(name)} and is {now.get(name)}")
    old, new = before.get("packages"), now["packages"]
    old = old if isinstance(old, Mapping) else {}
    changed += [
        f"{name} was {old[name]} and is {new.get(name, 'absent')}" for name in old if old[name] != new.get(name)
    ]
    if before.get("genfw") == now["genfw"] and before.get("code") != now["code"]:
        changed.append("genfw's own code has changed")
    plugins = {plugin["name"]: plugin for plugin in now["plugins"]}
    for plugin in read_records(before.get("plugins")):
        current = plugins.get(str(plugin.get("name")))
        label, version = plugin.get("name"), plugin.get("version")
        if current is None:
            changed.append(f"the plugin {label} {version} is gone")
        elif current["version"] != version:
            changed.append(f"the plugin {label} was {version} and is {current['version']}")
        elif current["code"] != plugin.get("code"):
            changed.append(f"the code of the plugin {label} has changed")
    for name in ("processor", "devices"):
        hardware = before.get("hardware")
        was = hardware.get(name) if isinstance(hardware, Mapping) else None
        is_now = now["hardware"][name]
        if was != is_now:
            changed.append(f"the {name} was {was} and is {is_now}")
    return changed


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def code_digest(folder: Path, source: str = "built-in") -> str:
    """Hash of the Python files of a package; empty for a local plugin, whose version is its hash already."""
    if source == "local" or not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _git(folder: Path) -> dict[str, Any] | None:
    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return (
        None
        if commit is None
        else {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()

"""``genfw doctor``: whether this machine has what genfw needs, and what to do if not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from genfw import __version__

if TYPE_CHECKING:
    from genfw.plugins.registry import Registry

#: Packages that genfw needs, by their distributions' names.
_PACKAGES = (
    "torch",
    "lightning-fabric",
    "safetensors",
    "pluggy",
    "attrs",
    "PyYAML",
    "typer",
    "rich",
    "numpy",
    "scikit-learn",
    "arviz-stats",
    "matplotlib",
    "jinja2",
    "torch-fidelity",
    "pylatexenc",
)
_OPTIONAL = {"tensorboard": "pip install 'genfw[tensorboard]'", "datasets": "pip install 'genfw[huggingface]'"}
#: Below this, checkpoints of any run may fill the disk.
_LEAST_FREE = 2 * 2**30
#: Seconds of loading from which a plugin slows every command noticeably.
_SLOW_PLUGIN = 0.1


@attrs.frozen
class Finding:
    """One fact about this machine.

    Arguments:
        group: ``genfw``, ``package``, ``torch``, ``data``, ``plugin`` or ``disk``.
        name: Its subject.
        value: Its value.
        level: ``ok``, ``warning`` (something will be slower or missing) or ``fault`` (something will fail).
        hint: What to do, or empty.
    """

    group: str
    name: str
    value: str
    level: str = "ok"
    hint: str = ""


def examine(registry: Registry, directory: Path | str = ".") -> tuple[Finding, ...]:
    """Examine versions, devices, plugins, data folders and disk. Changes nothing and opens no connection.

    Arguments:
        registry: Registry with the loaded and the broken plugins.
        directory: Folder of the runs.
    """
    return (*_program(), *_packages(), *_torch(), *_plugins(registry), *_data(), *_disk(Path(directory)))


def verdict(faults: int, warnings: int) -> str:
    """The findings in one sentence."""
    if faults:
        return f"verdict: genfw will fail on this machine until {'this is' if faults == 1 else 'these are'} mended"
    if warnings:
        return f"verdict: genfw works here; {warnings} warning{'s' if warnings > 1 else ''} above"
    return "verdict: genfw works here"


def _program() -> Iterator[Finding]:
    yield Finding("genfw", "version", __version__)
    yield Finding("genfw", "installed at", str(Path(__file__).parent))
    yield Finding("genfw", "python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("genfw", "platform", platform.platform())


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding("package", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("package", name, "absent", "fault", f"pip install {name}")
    for name, install in _OPTIONAL.items():
        try:
            yield Finding("package", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("package", name, "absent (optional)", hint=install)
    yield _torchvision()


def _torchvision() -> Finding:
    """Whether torchvision works: a build for another torch installs cleanly, but its operators do not load."""
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return Finding("package", "torchvision", "absent", "warning", "pip install torchvision, for its data sets")
    try:
        import torch

        from genfw.nn.torchvision import import_torchvision

        operators = import_torchvision("torchvision.ops")
    except Exception as error:
        reason = " ".join(str(error).split())
        hint = "install torch and torchvision from one index"
        return Finding("package", "torchvision", f"{version}, does not import: {reason}", "warning", hint)
    try:
        operators.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    except (RuntimeError, NotImplementedError):
        value = f"{version}, without its compiled operators; data sets and FID work all the same"
        return Finding(
            "package", "torchvision", value, hint="for the operators, install torch and torchvision from one index"
        )
    return Finding("package", "torchvision", f"{version}, whole")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "build", f"does not import: {error}", "fault", "pip install torch")
        return
    yield Finding("torch", "build", f"{torch.__version__}, CUDA {torch.version.cuda or 'no'}")
    yield Finding("torch", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_memory()}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding("torch", f"cuda:{index}", f"{facts.name}, {_size(facts.total_memory)}")
    if torch.backends.mps.is_available():
        yield Finding("torch", "mps", "available")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        if torch.version.cuda:
            yield Finding(
                "torch", "GPU", "torch has CUDA but sees no device", "warning", "check the driver: nvidia-smi"
            )
        else:
            yield Finding("torch", "GPU", "none")


def _plugins(registry: Registry) -> Iterator[Finding]:
    for plugin in registry.plugins:
        value = f"{plugin.version}, {plugin.components} components, {plugin.seconds * 1e3:.0f} ms, {plugin.source}"
        if plugin.heavy:
            hint = f"{plugin.file} should leave the import of {', '.join(plugin.heavy)} to its components' modules"
            yield Finding("plugin", plugin.name, f"{value}, imports {', '.join(plugin.heavy)}", "warning", hint)
        elif plugin.seconds > _SLOW_PLUGIN and plugin.source != "built-in":
            yield Finding("plugin", plugin.name, value, "warning", f"{plugin.file} slows every genfw command down")
        else:
            yield Finding("plugin", plugin.name, value)
    for broken in registry.broken:
        hint = f"mend it, uninstall it, or set GENFW_DISABLE_PLUGINS={broken.name}"
        yield Finding("plugin", broken.name, f"{broken.version}, {broken.error} ({broken.where})", "fault", hint)


def _data() -> Iterator[Finding]:
    named = os.environ.get("GENFW_DATA")
    folder = Path(os.path.expanduser(named or "~/.cache/genfw"))
    origin = "GENFW_DATA" if named else "default; GENFW_DATA changes it"
    if folder.is_dir():
        writable = os.access(folder, os.W_OK)
        yield Finding("data", "folder", f"{folder} ({origin})" + ("" if writable else ", read-only"))
    elif named:
        yield Finding("data", "folder", f"{folder} ({origin}) does not exist", "warning", f"mkdir -p {folder}")
    else:
        yield Finding("data", "folder", f"{folder} ({origin}), made when data is first downloaded")


def _disk(directory: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(directory).free
    low = free < _LEAST_FREE
    hint = "checkpoints and samples need room; free some, or write runs elsewhere with --root" if low else ""
    yield Finding("disk", "free", f"{_size(free)} at {directory.resolve()}", "warning" if low else "ok", hint)
    if not os.access(directory, os.W_OK):
        yield Finding(
            "disk", "runs", f"{directory.resolve()} can't be written to", "warning", "write runs elsewhere with --root"
        )


def _memory() -> str:
    try:
        return f"{_size(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} memory"
    except (AttributeError, ValueError, OSError):
        return "memory unknown"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"

"""``genfw new``: a working package with one component, its hook and its tests."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

from genfw import __version__
from genfw.errors import PluginError, article, closest, quoted
from genfw.plugins.component import KINDS

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["genfw$versions"]
optional-dependencies.test = ["pytest"]
[project.entry-points.genfw]
$name = "$package"
"""

_HOOK = '''\
"""The plugin: what it offers, by name. It imports nothing heavy; classes are imported when a recipe uses them."""

from genfw import Component, hookimpl


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    target = "$package.$kind:$Class"
    return [Component("$kind", "$name", target, "$summary")]
'''

_README = """\
# $distribution

A plugin for [genfw](https://github.com/genfw/genfw): $article $kind, `$name`.

```
pip install -e ".[test]"            # into the environment that genfw is in, with pytest
genfw show $kind/$name
python -m pytest                    # the laws of $article $kind, from genfw.testing
genfw verify $kind/$name
```

`$package/$kind.py` holds the class; its constructor's annotations are what a recipe can say:

```yaml
$use
```
"""

#: Summary of each generated class, for ``genfw list``; the author replaces both.
_SUMMARIES = {
    "prior": "normal with learned location and scale",
    "decoder": "linear decoder",
    "encoder": "linear posterior in noise space",
    "energy": "quadratic well with a learned centre",
    "sampler": "random-walk Metropolis",
    "start": "fresh draws of the base, spread out",
    "amortizer": "two normal laws, with and without data",
    "dataset": "points on a noisy ring",
    "optimizer": "RMSprop",
    "stage": "plain autoencoder",
    "metric": "difference between the means of samples and data",
    "tracker": "one scalar, line by line, in a text file",
}

#: Where a recipe names a component of each kind.
_USES = {
    "sampler": "sample: {sampler: {use: $name}}",
    "start": "sample: {start: {use: $name}}",
    "dataset": "data: {use: $name}",
    "optimizer": "train: [{use: elbo, optimizer: {use: $name}}]",
    "stage": "train: [{use: $name}]",
    "metric": "evaluate: [{use: $name}]",
    "tracker": "trackers: [{use: $name}]",
}


def new_plugin(kind: str, name: str, directory: Path | str = ".") -> Path:
    """Write a plugin package.

    Arguments:
        kind: What it offers, one of :data:`~genfw.plugins.component.KINDS`.
        name: Name of the component, lower-case words joined by ``-``.
        directory: Where to create the package's folder ``genfw-NAME``.

    Returns:
        The package's folder: ``pyproject.toml``, hook module, class, tests.

    Raises:
        PluginError: There is no such kind, the name is not well formed, or the folder exists and is not empty.
    """
    if kind not in KINDS:
        near = closest(kind, KINDS)
        hint = f" - did you mean '{near}'?" if near else ""
        raise PluginError(f"there is no kind '{kind}'{hint}; the kinds are {quoted(KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise PluginError(
            f"a component's name is lower-case words joined by '-', such as 'quadratic-well'; got '{name}'"
        )
    folder = Path(directory) / f"genfw-{name}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluginError(f"{folder} exists and is not empty; give another name or another folder")
    words = {
        "kind": kind,
        "name": name,
        "distribution": f"genfw-{name}",
        "package": f"genfw_{name.replace('-', '_')}",
        "Class": "".join(word.capitalize() for word in name.split("-")),
        "summary": _SUMMARIES[kind],
        "versions": _compatible(__version__),
        "article": article(kind).partition(" ")[0],
    }
    words["use"] = Template(_USES.get(kind, "$kind: {use: $name}")).substitute(words)
    package = folder / words["package"]
    files = {
        folder / "pyproject.toml": _PROJECT,
        folder / "README.md": _README,
        package / "__init__.py": _HOOK,
        package / f"{kind}.py": _template(kind),
        package / "py.typed": "",
        folder / "tests" / f"test_{words['package'].removeprefix('genfw_')}.py": _template(f"{kind}_test"),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    return folder


def _compatible(version: str) -> str:
    """What a plugin written for a version requires: it, and no version that may change the contract."""
    major, minor = (int(number) for number in version.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}" if major == 0 else f">={major}.{minor},<{major + 1}"


def _template(name: str) -> str:
    return (resources.files("genfw.plugins") / "templates" / f"{name}.txt").read_text(encoding="utf-8")

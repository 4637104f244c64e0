"""Write docs/components.md from registry.yaml and the classes that it names.

python docs/write_components.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from genfw.plugins import load_plugins
from genfw.plugins.component import KINDS, Component
from genfw.plugins.registry import Registry
from genfw.plugins.signature import parameters, type_name

PAGE = Path(__file__).parent / "components.md"


def text(registry: Registry | None = None, provider: str = "genfw") -> str:
    """The page, in Markdown: one table of all components of a distribution, then each with its arguments."""
    registry = registry or load_plugins(enabled=False)
    components = sorted(
        (component for component in registry.components if component.provider == provider),
        key=lambda component: (list(KINDS).index(component.kind), component.name),
    )
    lines = [
        "# Components",
        "",
        "Written by `python docs/write_components.py` from `registry.yaml` and the classes; do not edit.",
        "",
        "| kind | name | what it is | reference |",
        "| --- | --- | --- | --- |",
    ]
    for component in components:
        link = f"[{component.name}](#{component.kind}-{component.name})"
        lines.append(f"| {component.kind} | {link} | {_cell(component.summary)} | {_cell(component.reference)} |")
    for component in components:
        lines += ["", *_section(registry, component)]
    return "\n".join(lines) + "\n"


def _section(registry: Registry, component: Component) -> Iterator[str]:
    # The heading's text gives the anchor that the table links to, on GitHub as elsewhere.
    yield f"## {component.kind} {component.name}"
    yield ""
    yield f"{component.summary}."
    if component.aliases:
        yield f"Also called {', '.join(f'`{alias}`' for alias in component.aliases)}."
    for package, hint in component.needs.items():
        yield f"Needs `{package}`: `{hint}`."
    cls = registry.load_class(component, check_needs=False)
    yield f"Class `{component.target}`."
    schema = parameters(cls)
    if schema:
        yield from ("", "| argument | type | default | meaning |", "| --- | --- | --- | --- |")
    for parameter in schema:
        if parameter.injected:
            default = "from the model"
        else:
            default = "required" if parameter.required else f"`{_cell(repr(parameter.default))}`"
        words = _cell(type_name(parameter.annotation))
        yield f"| `{parameter.name}` | {words} | {default} | {_cell(parameter.description)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")

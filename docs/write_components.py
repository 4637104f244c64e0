"""Write docs/components.md from registry.yaml and the classes that it names, and docs/settings.md from the schema.

python docs/write_components.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from genfw.plugins import load_plugins
from genfw.plugins.component import KINDS, Component
from genfw.plugins.registry import Registry
from genfw.plugins.signature import parameters, type_name
from genfw.recipes.check import LISTS, ROLES, SETTINGS
from genfw.recipes.recipe import SECTIONS
from genfw.recipes.schema import export

PAGE = Path(__file__).parent / "components.md"
#: Form of a section's value -> the word for it.
FORMS = {"int": "whole number", "str": "text", "bool": "true or false", "names": "texts", "map": "mapping"}
SETTINGS_PAGE = Path(__file__).parent / "settings.md"


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
        "<!-- Written by `python docs/write_components.py` from `registry.yaml` and the classes; do not edit. -->",
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
    yield from _table(cls)


def settings_text() -> str:
    """The page of a recipe's sections, in Markdown, with every key of those that are mappings of settings."""
    described = export(Registry())["$defs"]["whole.recipe"]["properties"]
    lines = [
        "# The sections of a recipe",
        "",
        "<!-- Written by `python docs/write_components.py` from the schema of recipes; do not edit. -->",
        "",
        "[Recipes](recipes.md) makes one from scratch. `genfw schema` prints this page as JSON Schema, for editors.",
        "",
        "| section | form | what it is |",
        "| --- | --- | --- |",
    ]
    for section, form in SECTIONS.items():
        if section in SETTINGS:
            form = f"[settings](#{section})"
        elif section in LISTS:
            form = f"list of {LISTS[section]} blocks"
        elif section in ROLES:
            form = f"{ROLES[section]} block"
        else:
            form = {"int": "whole number", "str": "text", "bool": "true or false", "names": "texts"}.get(
                form, "mapping"
            )
        lines.append(f"| `{section}` | {form} | {_cell(described[section]['description'])} |")
    for section, cls in SETTINGS.items():
        idea = inspect.cleandoc(cls.__doc__ or "").partition("Arguments:")[0].strip()
        lines += ["", f"## {section}", "", _cell(idea), *_table(cls)]
    return "\n".join(lines) + "\n"


def _table(cls: type) -> Iterator[str]:
    """The arguments of a constructor, as a table."""
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
    """Text of a docstring in a cell of a Markdown table: roles and double backticks in Markdown's own marks."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    SETTINGS_PAGE.write_text(settings_text(), encoding="utf-8")

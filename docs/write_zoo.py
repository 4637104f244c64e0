"""Write docs/zoo.md and its pictures from the cards of the shipped models.

python docs/write_zoo.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from genfw.plugins import load_plugins
from genfw.runs.cards import Card, ShippedModel, shipped_models

DOCS = Path(__file__).parent
PAGE = DOCS / "zoo.md"

_HEAD = """# The zoo

<!-- Written by `python docs/write_zoo.py` from the models' cards; do not edit. -->

These trained models are shipped with genfw. `genfw sample NAME` draws from one, `genfw report NAME`
writes the report of the run it comes from, and `genfw.load("NAME")` loads it. [models.md](models.md)
says how you save and share your own.
"""


def text(models: list[ShippedModel] | None = None) -> str:
    """The page, in Markdown: a table of all models, then each with its samples and numbers."""
    models = models or shipped_models(load_plugins(enabled=False).model_dirs())
    lines = [_HEAD, "| model | data | trained on one machine | weights | numbers |", "| --- | --- | --- | --- | --- |"]
    for model in models:
        card, first = model.card, ", ".join(_short(model.card))
        where = f"{card.minutes:.0f} min, {card.hardware}"
        size = f"{card.parameters:,}, {model.bytes / 1e6:.1f} MB"
        lines.append(f"| [{model.name}](#{model.name}) | {_data(card)} | {where} | {size} | {first} |")
    for model in models:
        lines += ["", *_section(model)]
    return "\n".join(lines) + "\n"


def pictures(models: list[ShippedModel] | None = None) -> dict[Path, bytes]:
    """Path below the folder of the docs -> content, for every model with a picture."""
    models = models or shipped_models(load_plugins(enabled=False).model_dirs())
    return {_picture(model): (model.path / model.card.picture).read_bytes() for model in models if model.card.picture}


def _section(model: ShippedModel) -> Iterator[str]:
    card = model.card
    yield from (f"## {model.name}", "", card.description, "")
    if card.picture:
        yield from (f"![Samples of {model.name}]({_picture(model).as_posix()})", "")
    yield from ("```bash", f"genfw sample {model.name}", f"{card.command}   # train it again", "```", "")
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    yield f"Data: `{card.data}`."
    yield ""
    yield f"{card.steps:,} steps, {card.minutes:g} minutes on {card.hardware}, with {versions}."
    yield f"Licence of the weights: {card.licence}{card.rounding}."
    yield ""
    yield from ("| number | value | paper | protocol |", "| --- | --- | --- | --- |")
    for number in card.numbers:
        error = "" if number.error is None else f" ± {number.error:.2g}"
        paper = "" if number.paper is None else f"{number.paper:g}"
        protocol = ", ".join(f"{key} {value}" for key, value in number.protocol.items()).replace("|", "\\|")
        yield f"| {number.name} | {number.value:.4g}{error} {number.unit} | {paper} | {protocol} |"


def _picture(model: ShippedModel) -> Path:
    return Path("images") / "zoo" / f"{model.name}.png"


def _short(card: Card) -> list[str]:
    return [f"{number.name} {number.value:.4g}" for number in card.numbers[:3]]


def _data(card: Card) -> str:
    return card.data.partition("(")[0]


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    for place, content in pictures().items():
        (DOCS / place).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / place).write_bytes(content)

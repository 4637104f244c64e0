"""``genfw models``."""

from __future__ import annotations

from typing import Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Json
from genfw_cli.output import heading, lines, number, show_json, table
from genfw_cli.session import registry_of

#: Most numbers in a line, in the recipe's order.
_NUMBERS = 3


def command(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Show this model's card.", autocompletion=complete.models)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the trained models that are shipped, or show one's card.

    genfw sample MODEL draws from one, and genfw report MODEL writes its report.
    """
    from genfw.errors import RunError, did_you_mean
    from genfw.runs.cards import shipped_models

    found = shipped_models(registry_of(ctx).model_dirs())
    if name is not None:
        chosen = [model for model in found if model.name == name]
        if not chosen:
            raise RunError(f"there is no shipped model '{name}'{did_you_mean(name, [model.name for model in found])}")
        found = chosen
    if as_json:
        show_json(found)
    elif name is None:
        table(
            ["model", "what it is", "numbers", "trained", "MB"],
            [
                (
                    model.name,
                    model.card.description,
                    ", ".join(f"{item.name} {number(item.value)}" for item in model.card.numbers[:_NUMBERS]),
                    f"{model.card.minutes:.0f} min",
                    f"{model.bytes / 1e6:.1f}",
                )
                for model in found
            ],
            empty="no plugin ships a model",
        )
    else:
        (model,) = found
        card = model.card
        heading(card.name)
        lines(
            [
                card.description,
                "",
                f"data\t{card.data}",
                f"trained\t{card.steps:,} steps, {card.minutes:g} minutes on {card.hardware}",
                f"again\t{card.command}",
                f"weights\t{card.parameters:,}, {model.bytes / 1e6:.1f} MB, {card.licence}{card.rounding}",
                f"tags\t{', '.join(card.tags)}",
                f"folder\t{model.path}",
                "",
            ]
        )
        table(
            ["number", "value", "paper", "measured"],
            [
                (
                    item.name,
                    f"{number(item.value, item.error)} {item.unit}".strip(),
                    number(item.paper),
                    ", ".join(f"{key} {value}" for key, value in item.protocol.items()),
                )
                for item in card.numbers
            ],
        )

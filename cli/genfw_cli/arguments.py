"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli import complete

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe's path, or a shipped recipe's name.", autocompletion=complete.recipes
    ),
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run directory, its name, 'latest', or a recipe's name for its latest run.",
        autocompletion=complete.runs,
    ),
]
TrainedName = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL",
        help="A run, as for the other commands; or a saved model: its folder, or a shipped model's name.",
        autocompletion=complete.trained,
    ),
]
Root = Annotated[Path, typer.Option("--root", metavar="PATH", help="Folder of all runs.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, as in --set train.0.steps=500; repeatable."),
]
Unsets = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="Remove a value; repeatable.")]
Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over",
        metavar="PATH=VALUES",
        help="A setting that varies, as in --over seed=0..4 or --over train.0.optimizer.lr=1e-3,2e-3; repeatable: "
        "every combination is a run.",
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="PATH", help="File to write, instead of the usual place.")
]
Checkpoint = Annotated[str, typer.Option("--checkpoint", metavar="NAME", help="'best', 'last' or a checkpoint's name.")]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        help="Share the work among this many processes, each with its own GPU if there are GPUs; "
        "the results are the same.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]

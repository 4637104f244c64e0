"""``genfw board``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Root, TrainedName
from genfw_cli.output import note
from genfw_cli.session import find_directory


def command(
    ctx: typer.Context,
    run: TrainedName,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    root: Root = Path("runs"),
) -> None:
    """Serve a run's report on this machine while it goes on.

    The page refreshes itself. Prints the page's address, and serves until Ctrl-C. From another machine, tunnel to it:
    ssh -L PORT:127.0.0.1:PORT.
    """
    from genfw.runs.pages.board import Board

    board = Board(find_directory(ctx, run, root), port)
    print(board.url, flush=True)
    note("Ctrl-C ends it")
    if browser:
        import webbrowser

        webbrowser.open(board.url)
    with contextlib.suppress(KeyboardInterrupt):
        board.serve()

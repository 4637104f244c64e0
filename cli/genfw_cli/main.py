"""The app: global options, one command per file of :mod:`genfw_cli.commands`, messages and exit codes of failures."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

# Typer has its own copy of click, without a public name for this base of all usage errors.
from typer._click.exceptions import ClickException

from genfw import __version__
from genfw.errors import GenfwError, RecipeError, one_line
from genfw_cli.commands import Lazy
from genfw_cli.output import note
from genfw_cli.session import Session

EPILOG = (
    "RECIPE is a path, or the name of a shipped recipe. RUN is a run directory, its name, 'latest', "
    "or a recipe's name for its latest run. "
    "The options above may stand before or after the command. Exit codes: 0 ok, 1 the run failed, 2 usage, 3 recipe, "
    "4 component or plugin, 5 a check failed, 6 its numbers failed or are doubtful, 130 interrupted."
)


app = typer.Typer(
    name="genfw",
    cls=Lazy,
    help="Energy-based models over generators, composed from a recipe.",
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"genfw {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="PATH", help="A one-file plugin to load as well; repeatable."),
    ] = None,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Leave installed plugins out; built-in ones stay.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure. GENFW_DEBUG=1 does the same.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep the global options for the command that follows."""
    ctx.obj = Session(plugins=tuple(plugin or ()), enabled=not no_plugins)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Arguments:
        argv: Arguments without the program's name; the process's by default.
    """
    _prepare_streams()
    front, rest = _split_globals(sys.argv[1:] if argv is None else argv)
    arguments = [*front, *rest] or ["--help"]
    debug = "--debug" in front or os.environ.get("GENFW_DEBUG", "") not in ("", "0")
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="genfw", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ClickException as error:
        error.show()
        return getattr(error, "exit_code", 2)
    except (GenfwError, OSError) as error:
        if debug:
            raise
        if isinstance(error, BrokenPipeError):
            # The reader has closed the pipe (`genfw list | head`); prevent an error at the interpreter's last flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        # A recipe's faults begin with their place, like a compiler's messages, so that editors find it.
        note(str(error) if isinstance(error, RecipeError) else f"error: {error}")
        return error.exit_code if isinstance(error, GenfwError) else 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except Exception as error:
        if debug:
            raise
        note(
            f"error: {one_line(error)}\n    This is a fault of genfw or of a plugin, not of yours; "
            "repeat the command with --debug for the traceback."
        )
        return 1


def _prepare_streams() -> None:
    """Have a stream to write to, whatever was closed, and characters that it lacks written as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the program
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _split_globals(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Move ``--plugin PATH``, ``--no-plugins`` and ``--debug`` to the front, so that they may follow the command."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest.append(word)
            rest.extend(words)
        elif word == "--plugin" and (path := next(words, None)) is not None:
            front.append(f"--plugin={path}")
        elif word.startswith("--plugin=") or word in ("--no-plugins", "--debug"):
            front.append(word)
        else:
            rest.append(word)
    return front, rest


if __name__ == "__main__":
    sys.exit(main())

"""``genfw sweep``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Json, Over, Root, Sets, Unsets
from genfw_cli.output import is_live, note, show_json, table
from genfw_cli.session import registry_of

if TYPE_CHECKING:
    from genfw.runs.sweep import Sweep, SweepRow


def command(
    ctx: typer.Context,
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE...",
            help="Recipes: paths, names of shipped recipes, or patterns such as 'small/damc-*'.",
            autocompletion=complete.recipes,
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--recipes", metavar="RECIPE", help="The same as RECIPE...; others may follow it."),
    ] = None,
    over: Over = None,
    sets: Sets = None,
    unsets: Unsets = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of every part of every run.")] = False,
    root: Root = Path("runs"),
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="PATH", help="The sweep's folder, instead of one below --root."),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="local|slurm", help="Processes of this machine, or jobs of a SLURM cluster.")
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Runs at a time; by default one per GPU, or per core without a GPU."
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="NAME=VALUE,...",
            help="Options of sbatch for each run, as in --slurm partition=gpu,time=8:00:00; repeatable.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe with several settings, or several recipes.

    Each run has a directory of its own, all in one folder. You can interrupt this and call it again: finished runs are
    kept, others are resumed. A run that fails does not stop the others. 'genfw compare' and 'genfw report' take the
    folder.
    """
    from genfw.engine.sweep import plan_sweep, run_sweep

    if on not in ("local", "slurm", "submitit"):
        raise typer.BadParameter(f"--on is local or slurm, got '{on}'")
    options = dict(_pairs(slurm or ()))
    sweep = plan_sweep(
        [*(more or ()), *(recipes or ())],
        over or (),
        registry_of(ctx),
        sets=sets or (),
        unsets=unsets or (),
        smoke=smoke,
        root=root,
        directory=directory,
    )
    note(f"{len(sweep.runs)} runs in {sweep.path}")
    try:
        with _display() as watch:
            run_sweep(sweep, on=on, jobs=jobs, options=options, watch=watch)
    except KeyboardInterrupt:
        note("interrupted; the same command goes on")
        raise typer.Exit(130) from None
    rows = sweep.rows()
    if as_json:
        show_json({"sweep": sweep.path, "runs": [{**_facts(row), "directory": row.path} for row in rows]})
    else:
        table(["run", "state", "at", ""], [_cells(row) for row in rows])
        note(f"compare them: genfw compare {sweep.path}")
    if any(row.state != "finished" for row in rows):
        raise typer.Exit(1)


def _pairs(texts: list[str] | tuple[()]) -> Iterator[tuple[str, str]]:
    for text in texts:
        for pair in text.split(","):
            name, found, value = pair.partition("=")
            if not found or not name.strip():
                raise typer.BadParameter(f"--slurm reads NAME=VALUE,..., got '{pair}'")
            yield name.strip(), value.strip()


def _facts(row: SweepRow) -> dict[str, object]:
    return {
        "name": row.run.name,
        "recipe": row.run.recipe,
        "settings": row.run.settings,
        "state": row.state,
        "step": row.step,
        "steps": row.steps,
        "reason": row.reason,
    }


def _cells(row: SweepRow) -> tuple[str, str, str, str]:
    where = f"{row.stage} {row.step}/{row.steps}".strip() if row.state != "finished" else f"{row.steps} steps"
    return row.run.name, row.state, where, row.reason if row.state in ("failed", "killed") else ""


class _Lines:
    """A line on stderr whenever a run's state or stage changes."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, str]] = {}

    def __call__(self, sweep: Sweep) -> None:
        for row in sweep.rows():
            now = (row.state, row.stage if row.state == "running" else "")
            if self._said.setdefault(row.run.name, ("waiting", "")) != now:
                self._said[row.run.name] = now
                note("  ".join(cell for cell in _cells(row) if cell))


@contextlib.contextmanager
def _display() -> Iterator[Callable[[Sweep], None]]:
    """What shows a sweep's progress: a live table on a terminal, lines elsewhere."""
    if not is_live(sys.stderr):
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from genfw_cli.output import visible

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def watch(sweep: Sweep) -> None:
            drawn = Table("run", "state", "at", "", box=None, pad_edge=False)
            for row in sweep.rows():
                drawn.add_row(*(Text(visible(cell)) for cell in _cells(row)))
            live.update(drawn, refresh=True)

        yield watch

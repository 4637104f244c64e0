"""``genfw plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Json, Over, Sets, Unsets
from genfw_cli.output import heading, lines, note, show_json, table
from genfw_cli.session import registry_of

if TYPE_CHECKING:
    from genfw.engine.plan import Plan


def command(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...",
            help="Recipes: paths, names of shipped recipes, or patterns.",
            autocompletion=complete.recipes,
        ),
    ],
    over: Over = None,
    sets: Sets = None,
    unsets: Unsets = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=0.1, help="Most seconds for each stage and each metric.")
    ] = 10.0,
    as_json: Json = False,
) -> None:
    """Say what a run will cost here: time, memory, checkpoints.

    Times a few steps of each stage and a part of each metric in a temporary directory. With --over or several recipes,
    also the sum over all runs; runs that differ in their seed alone are timed once.
    """
    from genfw.engine.devices import own_device
    from genfw.engine.finished import accelerator_of
    from genfw.engine.plan import plan_run
    from genfw.engine.sweep import variants
    from genfw.recipes.compose import compose
    from genfw_cli.progress import duration

    groups: dict[str, list[str]] = {}
    plans: dict[str, Plan] = {}
    for variant in variants(recipes, over or (), registry_of(ctx), sets=sets or (), unsets=unsets or ()):
        group = variant.run.group
        groups.setdefault(group, []).append(variant.run.name)
        if group not in plans:
            note(f"{group}: timing it")
            device = str(own_device(accelerator_of(variant.recipe)))
            plans[group] = plan_run(compose(variant.recipe, variant.registry, device=device), seconds=seconds)
    total = sum(plan.seconds * len(groups[group]) for group, plan in plans.items())
    count = sum(map(len, groups.values()))
    if as_json:
        facts = [
            {
                "setting": group,
                "runs": len(groups[group]),
                "training_seconds": plan.training_seconds,
                "evaluation_seconds": plan.evaluation_seconds,
                "plan": plan,
            }
            for group, plan in plans.items()
        ]
        show_json({"plans": facts, "runs": count, "seconds": total})
        return
    for group, plan in plans.items():
        if len(plans) > 1:
            heading(group)
        _print(plan)
    if count > 1:
        lines([f"all {count} runs, one after the other\t{duration(total)}"])


def _print(plan: Plan) -> None:
    from genfw_cli.progress import duration

    table(["part", "parameters"], [(part, f"{count:,}") for part, count in plan.parameters.items()])
    table(
        ["stage", "steps", "seconds per step", "time", "checkpoint"],
        [
            (
                stage.name,
                f"{stage.steps:,}",
                f"{stage.step_seconds:.3g}",
                duration(stage.seconds),
                size(stage.checkpoint_bytes),
            )
            for stage in plan.stages
        ],
    )
    table(["metric", "time", ""], [(metric.name, duration(metric.seconds), metric.reason) for metric in plan.metrics])
    least = "at least " if any(metric.reason for metric in plan.metrics) else ""
    lines(
        [
            f"training\t{duration(plan.training_seconds)}",
            f"evaluation\t{least}{duration(plan.evaluation_seconds)}",
            f"run\t{least}{duration(plan.seconds)}",
            f"peak memory on {plan.device}\t{size(plan.peak_bytes)}",
            f"checkpoints of a finished run\t{size(plan.kept_bytes)}",
        ]
    )


def size(count: int) -> str:
    """Bytes as ``1.5 GiB``."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"

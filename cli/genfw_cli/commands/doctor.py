"""``genfw doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Json
from genfw_cli.output import lines, show_json, table
from genfw_cli.session import registry_of


def command(
    ctx: typer.Context,
    root: Annotated[Path, typer.Option("--root", help="Folder of the runs.")] = Path(),
    as_json: Json = False,
) -> None:
    """Check what this machine has for genfw.

    Examines versions, devices, plugins, data folders and disk. Exits with 5 if something will fail.
    """
    from genfw_cli.doctor import examine, verdict

    findings = examine(registry_of(ctx), root)
    faults = [finding for finding in findings if finding.level == "fault"]
    if as_json:
        show_json({"ok": not faults, "findings": findings})
    else:
        table(["", "of", "what", "found"], [(item.level, item.group, item.name, item.value) for item in findings])
        lines(
            f"{item.level}: {item.group} {item.name}: {item.hint}"
            for item in findings
            if item.hint and item.level != "ok"
        )
        warnings = sum(finding.level == "warning" for finding in findings)
        print(verdict(len(faults), warnings))
    if faults:
        raise typer.Exit(5)

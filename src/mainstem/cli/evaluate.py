"""`mainstem evaluate MODEL DATA`."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Argument, Option

from mainstem.cli import note


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="a model folder or a run folder")],
    data: Annotated[str, Argument(metavar="DATA", help="rows with their answers; - is standard input")],
    group: Annotated[str, Option("--group", metavar="COL", help="resample whole groups by this column")] = "",
    as_json: Annotated[bool, Option("--json", help="print JSON, for machines")] = False,
    seed: Annotated[int, Option(help="of the bootstrap")] = 0,
) -> None:
    """Metrics with 95 % bootstrap intervals beside a trivial baseline."""
    from mainstem import api

    report = api.load(model).evaluate(data, group=group, seed=seed)
    if unanswered := report.get("unanswered"):
        note(f"{unanswered} rows have no answer and are left out")
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        from mainstem.evaluation.report import table

        print(table(report))

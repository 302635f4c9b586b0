"""`mainstem export RUN -o MODEL`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from mainstem.cli import note


def command(
    run: Annotated[str, Argument(metavar="RUN", help="the folder of an unfinished run")],
    out: Annotated[str, Option("-o", "--out", metavar="MODEL", help="where the model folder is written")],
) -> int:
    """Seal what an unfinished run has: its best finished candidate, or its newest checkpoint. The run can still be resumed."""
    from mainstem import api

    model = api.export(run, out, say=note)
    print(f"Sealed: {model.path}")
    return 0

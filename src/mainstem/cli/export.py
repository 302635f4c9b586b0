"""`mainstem export RUN|BACKBONE -o MODEL`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from mainstem.cli import note


def command(
    run: Annotated[str, Argument(metavar="RUN|BACKBONE", help="the folder of an unfinished run, or a backbone: hf:FOLDER, timm:FOLDER")],
    out: Annotated[str, Option("-o", "--out", metavar="MODEL", help="where the model folder is written")],
) -> int:
    """Seal what an unfinished run has: its best finished candidate, or its newest checkpoint. The run can still be resumed.

    Of a backbone alone a model that embeds: its answers are features of length 1, for search, clusters and duplicates.
    """
    from mainstem import api

    model = api.export(run, out, say=note)
    print(f"Sealed: {model.path}")
    return 0

"""`mainstem compress MODEL --method int8 -o OUT`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from mainstem.cli import note


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="a model folder or a run folder")],
    out: Annotated[str, Option("-o", "--out", metavar="OUT", help="where the compressed model is written")],
    data: Annotated[str, Argument(metavar="DATA", help="rows with answers, to measure both models on besides the replay")] = "",
    method: Annotated[str, Option(metavar="NAME", help="one of `mainstem list compress`")] = "int8",
) -> int:
    """Make a model smaller and faster: its backbones compressed, once for all tasks that share them, and sealed like any other model."""
    from mainstem import api

    made = api.compress(model, out, data or None, method=method, say=note)
    print(f"Sealed: {made.path}")
    return 0

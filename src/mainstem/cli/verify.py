"""`mainstem verify MODEL`."""

from __future__ import annotations

import sys
from typing import Annotated

from typer import Argument, Option

from mainstem.cli import MISTAKE, red


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="a model folder or a run folder")],
    data: Annotated[str, Argument(metavar="DATA", help="rows that hold the replay's, for a model that keeps only their hashes")] = "",
    url: Annotated[str, Option(metavar="URL", help="ask a live server instead: http://HOST:PORT/predict/NAME")] = "",
    token: Annotated[str, Option(metavar="T", help="of that server", envvar="MAINSTEM_TOKEN")] = "",
) -> int:
    """Hold a model against the golden rows it was sealed with. Exits 0, or 2 with row, stage and size of what differs."""
    from mainstem import api
    from mainstem.seal import Mismatch

    try:
        answer = api.load(model).verify(data or None, url=url, token=token)
    except Mismatch as error:
        row = "" if error.row is None else str(error.row + 1)
        lines = [f"refused: {error}", f"  row    {row or '-'}", f"  stage  {error.stage}", f"  size   {error.size}"]
        print("\n".join(red(line) for line in lines), file=sys.stderr)
        return MISTAKE
    print(f"verified: {answer['rows']} golden rows answered as when the model was measured")
    width = max(map(len, answer["worst"]), default=0)
    for stage, size in answer["worst"].items():
        print(f"  {stage:<{width}}  {'equal' if size == 0 else f'differs by {size:.2g} at most'}")
    return 0

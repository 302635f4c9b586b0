"""`mainstem serve NAME=MODEL…`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mainstem.cli import note
from mainstem.errors import MainstemError


def command(
    models: Annotated[list[str], Argument(metavar="[NAME=]MODEL", help="model or run folders, each with the name it answers to")],
    host: Annotated[str, Option(metavar="H", help="any address but this machine's own needs --token")] = "127.0.0.1",
    port: Annotated[int, Option(metavar="P", help="0 takes a free one")] = 8000,
    token: Annotated[str, Option(metavar="T", help="what requests have to bring", envvar="MAINSTEM_TOKEN")] = "",
    grace: Annotated[float, Option(metavar="S", help="seconds that requests under way have to end on SIGTERM")] = 20.0,
    queue: Annotated[float, Option(metavar="S", help="seconds that a request may wait for its turn; longer is refused at once")] = 3.0,
    in_process: Annotated[bool, Option("--in-process", help="run the graphs in this process, not in one a backbone")] = False,
) -> None:
    """Answer predictions over HTTP, on this machine alone unless there is a token. Every model is replayed before it answers."""
    from mainstem.serve.run import serve

    serve(named(models), host, port, token, note, in_process=in_process, grace=grace, queue=queue)


def named(models: list[str]) -> dict[str, Path]:
    """ "sentiment=runs/reviews", "runs/reviews" → folders by name. Raises MainstemError where a name comes twice."""
    folders: dict[str, Path] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            path, name = text, _name_of(Path(text))
        if name in folders:
            raise MainstemError(f"two models are called '{name}'", do="Name them: mainstem serve NAME=MODEL NAME=MODEL.")
        folders[name] = Path(path)
    return folders


def _name_of(path: Path) -> str:
    """A name from the folder: of the run where it is its model/."""
    path = path.resolve()
    name = path.parent.name if path.name == "model" else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", name.casefold()).strip("-._") or "model"

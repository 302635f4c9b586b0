"""`mainstem serve NAME=MODEL…`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mainstem.cli import note
from mainstem.errors import MainstemError

RUNNING, ASKING, LIMITS = "Where it listens", "Who may ask", "How much one request may hold"


def command(
    models: Annotated[list[str], Argument(metavar="[NAME=]MODEL", help="model or run folders, each with the name it answers to")],
    host: Annotated[str, Option(metavar="H", help="all but this machine's own need a token", rich_help_panel=RUNNING)] = "127.0.0.1",
    port: Annotated[int, Option(metavar="P", help="0 takes a free one", rich_help_panel=RUNNING)] = 8000,
    certificate: Annotated[Path | None, Option(metavar="PEM", help="answer over TLS", rich_help_panel=RUNNING)] = None,
    key: Annotated[Path | None, Option(metavar="PEM", help="of the certificate", rich_help_panel=RUNNING)] = None,
    token: Annotated[str, Option(metavar="T", help="what requests have to bring", envvar="MAINSTEM_TOKEN", rich_help_panel=ASKING)] = "",
    tokens: Annotated[
        Path | None, Option(metavar="FILE", help="several, by name, with their rates: NAME: {token: …, rate: 50}", rich_help_panel=ASKING)
    ] = None,
    repository: Annotated[
        Path | None, Option(metavar="FOLDER", help="model folders that may be loaded by name while it runs", rich_help_panel=ASKING)
    ] = None,
    grace: Annotated[float, Option(metavar="S", help="seconds that requests under way have to end on SIGTERM")] = 20.0,
    queue: Annotated[float, Option(metavar="S", help="seconds that a request may wait for its turn; longer is refused at once")] = 3.0,
    in_process: Annotated[bool, Option("--in-process", help="run the graphs in this process, not in one a backbone")] = False,
    timeout: Annotated[float, Option(metavar="S", min=0, help="seconds until an answer; 0 for any", rich_help_panel=LIMITS)] = 60.0,
    max_body: Annotated[float, Option(metavar="MB", min=0.001, help="of a request, or a streamed line", rich_help_panel=LIMITS)] = 32.0,
    max_rows: Annotated[int, Option(metavar="N", min=1, help="of a request", rich_help_panel=LIMITS)] = 10_000,
    max_text: Annotated[int, Option(metavar="N", min=1, help="characters of a text", rich_help_panel=LIMITS)] = 50_000,
    max_pixels: Annotated[int, Option(metavar="N", min=1, help="of a picture", rich_help_panel=LIMITS)] = 40_000_000,
    log: Annotated[str, Option(metavar="json", help="one line a request on standard error, without what was asked")] = "",
    log_inputs: Annotated[bool, Option("--log-inputs", help="with what was asked")] = False,
) -> None:
    """Answer predictions over HTTP, on this machine alone unless there is a token. Every model is replayed before it answers."""
    from mainstem.serve import manners
    from mainstem.serve.requests import Limits
    from mainstem.serve.run import serve

    size = int(max_body * (1 << 20))
    limits = Limits(size, min(size, Limits.line), max_rows, max_text, max_pixels, timeout)
    behaviour = manners.of(token, tokens, limits, repository, certificate, key, log, log_inputs)
    serve(named(models), host, port, behaviour, note, in_process=in_process, grace=grace, queue=queue)


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

"""The playground: one static page that asks the served models. It holds nothing of them, loads nothing from elsewhere, and is open:
what it shows comes by the routes that ask for a token."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from mainstem.serve.guard import Access, Guarded

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {"/": ("page.html", "text/html"), "/playground.js": ("page.js", "text/javascript"), "/playground.css": ("page.css", "text/css")}


def routes() -> list[Guarded]:
    """The page, its style and its program."""
    return [Guarded(path, _page, Access.OPEN) for path in _FILES]


async def _page(request: Request) -> Response:
    name, kind = _FILES[request.url.path]
    return Response(_read(name), media_type=kind, headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})


@cache
def _read(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()

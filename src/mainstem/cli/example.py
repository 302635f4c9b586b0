"""`mainstem example NAME`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from mainstem.errors import MainstemError, suggest


def command(
    name: Annotated[str, Argument(metavar="NAME", help="linear, table, iris-in-context, reviews, digits, series or pretrain-tiny")],
    out: Annotated[str, Option("-o", "--out", metavar="DIR", help="where to; default: here")] = ".",
) -> None:
    """Write a small data set (or a config), and print the command that uses it."""
    from mainstem.data import examples

    if name not in examples.NAMES:
        raise MainstemError(f"there is no example '{name}'", do=suggest(name, examples.NAMES))
    print(examples.write(name, out))

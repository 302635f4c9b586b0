"""`mainstem predict MODEL DATA`."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from mainstem.cli import note
from mainstem.errors import MainstemError, MissingExtra

SHOWN = 5  # bad rows that a message names
Answer = Mapping[str, Any]


class OnError(StrEnum):
    """What a bad row does."""

    fail = "fail"
    skip = "skip"


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="a model folder or a run folder")],
    data: Annotated[str, Argument(metavar="DATA", help="a file, a folder of pictures, or - for standard input")],
    out: Annotated[
        str, Option("-o", "--out", metavar="FILE", help=".csv, .tsv, .jsonl, .json or .parquet; default: CSV to the screen")
    ] = "",
    on_error: Annotated[OnError, Option(help="bad rows: fail names them all and writes nothing, skip leaves them out")] = OnError.fail,
    options: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="an option of the model's task, such as temperature=0.8")
    ] = None,
) -> None:
    """Predictions in the order of the rows: prediction, score, score.LABEL, and the interval where the model has one.

    A forecast is a row for each series and step: series, time, prediction, q0.1, …, q0.9.
    """
    from mainstem import api, config

    write, given = _writer(out), dict(map(config.assignment, options or ()))
    loaded = api.load(model)
    answers = loaded.predict(data, on_error="skip", options=given)
    bad = [str(answer["error"]) for answer in answers if "error" in answer]
    if bad:
        listed = " ".join(bad[:SHOWN]) + (f" And {len(bad) - SHOWN:,} more." if len(bad) > SHOWN else "")
        counted = f"{len(bad):,} of {len(answers):,} rows"
        if on_error is OnError.fail:
            raise MainstemError(f"{counted} cannot be predicted. {listed}", do="With --on-error skip they are left out.")
        note(f"{counted} left out. {listed}")
    lines = getattr(loaded.pipeline.task, "lines", lambda answer: [answer])
    content = write([flat(line) for answer in answers if "error" not in answer for line in lines(answer)])
    if out:
        from mainstem import files

        files.write_bytes(out, content)
        note(f"{len(answers) - len(bad):,} predictions in {out}")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)


def flat(answer: Answer) -> dict[str, Any]:
    """A rendered prediction as one row: `scores` become score.LABEL."""
    row = {key: value for key, value in answer.items() if key != "scores"}
    scores = {f"score.{label}": score for label, score in dict(answer.get("scores", {})).items()}
    first: dict[str, Any] = {key: row.pop(key) for key in ("series", "time", "prediction", "score") if key in row}
    return {**first, **scores, **row}


def _writer(out: str) -> Callable[[Sequence[Answer]], bytes]:
    """What turns rows into the bytes of such a file; asked for before any row is predicted."""
    suffix = Path(out).suffix.casefold() if out else ".csv"
    writers: dict[str, Callable[[Sequence[Answer]], bytes]] = {
        ".csv": lambda rows: _delimited(rows, ","),
        ".tsv": lambda rows: _delimited(rows, "\t"),
        ".jsonl": lambda rows: "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode(),
        ".json": lambda rows: f"{json.dumps(rows, ensure_ascii=False, indent=1)}\n".encode(),
        ".parquet": _parquet,
    }
    if suffix not in writers:
        raise MainstemError(
            f"do not know how to write {suffix or 'a file without an ending'}", where=out, do=f"Known: {', '.join(writers)}."
        )
    return writers[suffix]


def _columns(rows: Sequence[Answer]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row)) or ["prediction"]


def _delimited(rows: Sequence[Answer], delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    names = _columns(rows)
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return stream.getvalue().encode()


def _cell(value: Any) -> Any:
    """Several labels in one cell are parted by "|", as training data may hold them."""
    if isinstance(value, list | tuple):
        return "|".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else "" if value is None else value


def _parquet(rows: Sequence[Answer]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("Writing Parquet", "tables", "pyarrow") from error
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in _columns(rows)}), sink)
    return sink.getvalue()

"""The client of a server: rows, frames or texts in, predictions out; what the server turns away for a moment is asked again.

    client = ms.Client("http://127.0.0.1:8000", token="…")
    client.predict(["fine film", "很好看"], "sentiment")
    client.predict(frame, tasks=["sentiment", "topic"])     # one pass of a shared backbone; a DataFrame comes back
    await client.predict_async(rows, "*")

Standard library only; connections are kept open and used again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mainstem.errors import MainstemError

ROWS = 500  # of one request; more are sent in several
FIRST, LONGEST = 0.2, 30.0  # seconds before the first retry, and before any
BUSY = (429, 503)

Answer = dict[str, Any]


class Refused(MainstemError):
    """The server's own sentence on a request. `status`: of the answer; `rows`: the bad rows that it names, [{"row", "error"}]."""

    def __init__(self, what: str, status: int, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(what)
        self.status, self.rows = status, rows


class Client:
    """A server at `url`. Safe to use from several threads. `retries`: of what is answered 429 or 503, or not at all."""

    def __init__(self, url: str, token: str = "", *, timeout: float = 60.0, retries: int = 5) -> None:
        """Raises MainstemError for an address that is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MainstemError(f"'{url}' is no address of a server", do="Give one such as http://127.0.0.1:8000.")
        self.url, self.timeout, self.retries = url.rstrip("/"), timeout, retries
        self._parts, self._token = parts, token
        self._idle: list[HTTPConnection] = []  # open ones that nobody uses; append and pop are safe between threads

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are open; the next request opens another."""
        idle: list[HTTPConnection] = getattr(self, "_idle", [])
        while idle:
            idle.pop().close()

    def models(self) -> list[Answer]:
        """What is served: name, task, columns, labels, version, digest, whether it is ready."""
        listed: list[Answer] = self._ask("GET", "/models")["models"]
        return listed

    def predict(
        self,
        data: Any,
        tasks: str | Sequence[str] = "",
        *,
        options: Mapping[str, Any] | None = None,
        on_error: str = "fail",
    ) -> Any:
        """Predictions of one model, a row each; of several, {name: predictions}. For a DataFrame a DataFrame with its index.

        data: a list of dicts, a list of bare values where the models read one column, a DataFrame, a dict of columns, or a path.
        tasks: a name, several, or "*" for all; "" where only one model is served.
        options: of the task; of several tasks by name.
        on_error: "fail" raises the first bad row's sentence, "skip" gives {"error": sentence} in its place.
        Raises Refused for what the server does not answer, and MainstemError where there is none.
        """
        if on_error not in ("fail", "skip"):
            raise MainstemError(f"'on_error' cannot be '{on_error}'", do="Known: fail, skip.")
        known = self.models() if not tasks or tasks == "*" or not _has_columns(data) else []
        chosen = _chosen(tasks, known)
        rows = _rows(data, chosen, known)
        one = isinstance(tasks, str) and tasks != "*"
        found: dict[str, list[Answer]] = {name: [] for name in chosen}
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            answers = (
                {chosen[0]: self._one(chosen[0], part, start, options, on_error)} if one else self._several(chosen, part, options, on_error)
            )
            for name, each in answers.items():
                found[name] += each
        if _is_frame(data):
            return _framed(found, data.index, one)
        return found[chosen[0]] if one else found

    async def predict_async(self, data: Any, tasks: str | Sequence[str] = "", **more: Any) -> Any:
        """The same beside an event loop."""
        return await asyncio.to_thread(self.predict, data, tasks, **more)

    # asking

    def _one(self, name: str, rows: list[Any], start: int, options: Any, on_error: str) -> list[Answer]:
        """The predictions of one model; with "skip" once more for the good rows where some are bad."""
        path = f"/predict/{quote(name, safe='')}"
        try:
            made: list[Answer] = self._ask("POST", path, {"rows": rows, "options": dict(options or {})})["predictions"]
            return made
        except Refused as refused:
            bad = {each["row"] - 1: each["error"] for each in refused.rows}
            if on_error == "fail" or not bad:
                first = next(iter(bad.items()), None)
                raise refused if first is None or not start else Refused(f"row {start + first[0] + 1:,}: {first[1]}", 422) from None
        good = [i for i in range(len(rows)) if i not in bad]
        again = dict(zip(good, self._one(name, [rows[i] for i in good], start, options, on_error) if good else (), strict=True))
        return [again[i] if i in again else {"error": bad[i]} for i in range(len(rows))]

    def _several(self, names: Sequence[str], rows: list[Any], options: Any, on_error: str) -> dict[str, list[Answer]]:
        """The predictions of several models on the same rows."""
        try:
            answers = self._ask("POST", "/predict", {"tasks": list(names), "rows": rows, "options": dict(options or {})})["answers"]
        except Refused as refused:
            if on_error == "fail" or refused.status != 422:
                raise
            return {name: self._alone(name, rows, options) for name in names}
        made = {}
        for name in names:
            if "error" in answers[name] and on_error == "fail":
                raise Refused(f"{name}: {answers[name]['error']}", 422, answers[name].get("rows", ()))
            made[name] = self._alone(name, rows, options) if "error" in answers[name] else answers[name]["predictions"]
        return made

    def _alone(self, name: str, rows: list[Any], options: Any) -> list[Answer]:
        """One of several whose rows are not all good; where it cannot answer any, its sentence for each."""
        try:
            return self._one(name, rows, 0, (options or {}).get(name), "skip")
        except Refused as refused:
            return [{"error": refused.what}] * len(rows)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request, asked again while the server has no room. Raises Refused, and MainstemError where there is no server."""
        data = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        wait, tried = FIRST, 0
        while True:
            try:
                status, told, after = self._send(method, path, data)
                if status < 400:
                    return told
                problem: MainstemError = _refused(status, told)
                if status not in BUSY:
                    raise problem
            except (OSError, HTTPException) as error:
                after, problem = None, MainstemError(f"{self.url} does not answer: {error or type(error).__name__}", do="Is the server up?")
            tried += 1
            if tried > self.retries:
                raise problem
            time.sleep(min(LONGEST, after if after is not None else wait * random.uniform(0.5, 1.0)))
            wait *= 2

    def _send(self, method: str, path: str, data: bytes | None) -> tuple[int, Any, float | None]:
        """Status, JSON, and the seconds of Retry-After."""
        headers = {"Content-Type": "application/json"} if data is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}".encode()  # type: ignore[assignment]  # http.client takes bytes
        while True:
            try:
                connection, used = self._idle.pop(), True
            except IndexError:
                connection, used = self._connect(), False
            try:
                connection.request(method, self._parts.path.rstrip("/") + path, data, headers)
                answer = connection.getresponse()
                content = answer.read()
                break
            except (OSError, HTTPException):
                connection.close()
                if not used:  # one that was idle for long may have been closed by the server
                    raise
        if answer.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        try:
            told = json.loads(content)
        except ValueError:
            told = {"error": f"this is no answer of a mainstem server (status {answer.status})"}
            return max(answer.status, 400), told, None
        after = answer.headers.get("Retry-After", "")
        return answer.status, told, float(after) if after.isdigit() else None

    def _connect(self) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=self.timeout)


def _refused(status: int, told: Any) -> Refused:
    """What the server says, in its own words."""
    said = told.get("error", "") if isinstance(told, dict) else ""
    rows = told.get("rows", ()) if isinstance(told, dict) else ()
    return Refused(str(said) or f"the server answered {status}", status, rows if isinstance(rows, list) else ())


# --- rows -----------------------------------------------------------------------------------------------------------------


def _chosen(tasks: str | Sequence[str], known: Sequence[Answer]) -> list[str]:
    """The names asked for. Raises MainstemError where none is and several are served."""
    if tasks == "*":
        return [model["name"] for model in known]
    if isinstance(tasks, str) and tasks:
        return [tasks]
    if tasks:
        return list(tasks)
    if len(known) != 1:
        names = ", ".join(model["name"] for model in known) or "none"
        raise MainstemError("name the model to ask", do=f"Served are: {names}.")
    return [known[0]["name"]]


def _rows(data: Any, chosen: Sequence[str], known: Sequence[Answer]) -> list[Any]:
    """Any source of rows → JSON. Raises MainstemError where bare values name no column."""
    from mainstem.data import sources

    if isinstance(data, Sequence) and not data:
        return []
    if not _has_columns(data):
        columns = {column["name"] for model in known if model["name"] in chosen for column in model["columns"]}
        if len(columns) != 1:
            listed = ", ".join(sorted(columns)) or "none"
            raise MainstemError("bare values are for models that read one column", do=f"Name the columns; these are read: {listed}.")
        [name] = columns
        data = {name: list(data)}
    read = sources.read(data)
    names = list(read.columns)
    base = read.base
    return [dict(zip(names, (_cell(cell, base) for cell in row), strict=True)) for row in zip(*read.columns.values(), strict=True)]


def _has_columns(data: Any) -> bool:
    """Whether the data name their columns: all but lists of bare values do."""
    if isinstance(data, str | bytes):
        return not isinstance(data, bytes)
    return not isinstance(data, Sequence) or any(isinstance(row, Mapping) for row in data)


def _cell(cell: Any, base: Path | None = None) -> Any:
    """A value as JSON: bytes and files as base64, dates as ISO 8601, what is missing as null."""
    if isinstance(cell, Path):
        cell = (base / cell if base else cell).read_bytes()
    if isinstance(cell, bytes | bytearray):
        return base64.b64encode(cell).decode()
    if isinstance(cell, date):
        return cell.isoformat() if cell == cell else None  # a missing time of pandas is a date as well
    if isinstance(cell, Mapping):
        return {str(key): _cell(value, base) for key, value in cell.items()}
    if hasattr(cell, "tolist"):  # of numpy
        cell = cell.tolist()
    if isinstance(cell, list | tuple | set):
        return [_cell(value, base) for value in cell]
    if cell is None or (isinstance(cell, float) and cell != cell):
        return None
    return cell if isinstance(cell, str | int | float | bool) else None if type(cell).__name__ in ("NAType", "NaTType") else str(cell)


# --- frames ---------------------------------------------------------------------------------------------------------------


def _is_frame(data: Any) -> bool:
    return any(c.__module__.partition(".")[0] == "pandas" and c.__name__ == "DataFrame" for c in type(data).__mro__)


def _framed(found: Mapping[str, Sequence[Answer]], index: Any, one: bool) -> Any:
    """A DataFrame: prediction, score, score.LABEL, … of one model; of several each behind its name."""
    import pandas

    parts = []
    for name, answers in found.items():
        rows = [dict(_flat(answer)) for answer in answers]
        made = pandas.DataFrame(rows, index=index)
        parts.append(made if one else made.rename(columns=lambda column, name=name: name if column == "prediction" else f"{name}.{column}"))
    return pandas.concat(parts, axis=1)


def _flat(answer: Answer) -> Iterator[tuple[str, Any]]:
    for key, value in answer.items():
        if key == "scores":
            yield from ((f"score.{label}", score) for label, score in value.items())
        else:
            yield key, value

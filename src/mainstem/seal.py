"""Record a replay, and hold a model folder (or a live address) against it: what is shipped answers as what was measured.

A replay is golden rows with the arrays and outputs of every stage, recorded from the live objects that were evaluated.
A seal is the record that a fresh process without PyTorch, reading the written folder, did it all again.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mainstem
from mainstem import artifact, files
from mainstem.contracts import Array, Call, Json, Kept, Port, Prediction, Rows, Runner, State, Table
from mainstem.errors import MainstemError
from mainstem.inference import Pipeline, drive, encoder, seeds_of

ROWS = 32
MOST_RECORDED = 64 << 20  # bytes of outputs that a replay keeps; later calls are only named, and show in the answers
ABSOLUTE, RELATIVE = 1e-5, 1e-4  # of a call: |a - b| <= ABSOLUTE + RELATIVE * max|a|


class Mismatch(MainstemError):
    """A model does not answer as the measured one did. `row`, `stage` and `size` say where first, and by how much."""

    def __init__(self, stage: str, row: int | None, size: str, where: str = "") -> None:
        at = f"replay row {row + 1}" if row is not None else "the replay"
        super().__init__(
            f"this does not answer as the measured model did: {at}, stage {stage}, {size}",
            where=where,
            do="The model or what it runs on was changed; do not use it here before that is found.",
        )
        self.stage, self.row, self.size = stage, row, size


@dataclass(frozen=True)
class Replay:
    """Golden rows: `columns` of held-out ones (None where only their hashes were kept), then `edges`, which were made here.

    `encoded`: "INPUT/array" → array (or its hashes by row); `calls`: graph and outputs, in order.
    """

    columns: Mapping[str, Sequence[Any]] | None
    edges: Mapping[str, Sequence[Any]]
    hashes: Sequence[str]
    encoded: Mapping[str, Any]
    calls: Sequence[tuple[str, Mapping[str, Array]]]
    predictions: Sequence[Mapping[str, Any]]
    examples: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)  # by graph: inputs to export with; not written

    def __len__(self) -> int:
        """The held-out rows."""
        return len(self.hashes) - len(Rows(self.edges))

    def rows(self, held_out: Rows | None = None) -> Rows:
        """The golden rows as a source would give them. Raises MainstemError where only their hashes were kept and they are not given."""
        if held_out is None and self.columns is None:
            raise MainstemError(
                "this model keeps only the hashes of its replay rows", do="Give the data as well: mainstem verify MODEL DATA."
            )
        found = self.columns or {} if held_out is None else held_out.columns
        columns = {name: [*found[name], *cells] for name, cells in self.edges.items()}
        return Rows(columns, where="replay", base=None if held_out is None else held_out.base)


# --- recording --------------------------------------------------------------------------------------------------------


def record(pipeline: Pipeline, runner: Runner, rows: Rows) -> Replay:
    """Run these raw rows, and made ones, through the live model and keep every stage.

    Rows that do not parse are left out, and those whose answer may be another one within the tolerance of calls.
    """
    table, _ = pipeline.parse(rows)
    columns = {
        name: [_raw(rows.columns[name][s], v) for s, v in zip(table.source, values, strict=True)] for name, values in table.columns.items()
    }
    edges = made_rows(pipeline)
    while True:
        stages = run(pipeline, runner, Rows({name: [*cells, *edges[name]] for name, cells in columns.items()}, where="replay"))
        for row, (a, b) in enumerate(zip(stages.table.hashes, table.hashes, strict=False)):
            if a != b:
                raise Mismatch("parse", row, "the row reads differently once it is written as JSON")
        if not (firm := stages.firm()) or len(firm) == len(stages.table):
            return Replay(columns, edges, stages.table.hashes, stages.encoded, stages.calls, stages.predictions, stages.examples)
        held_out = [row for row in firm if row < len(table)]
        columns = {name: [cells[row] for row in held_out] for name, cells in columns.items()}
        edges = {name: [cells[row - len(table)] for row in firm if row >= len(table)] for name, cells in edges.items()}
        table = table.take(held_out)


def made_rows(pipeline: Pipeline) -> dict[str, list[Any]]:
    """Rows of the cells that each column's modality calls its `edges`: what 32 rows of the data may happen not to show.

    A missing value in each spelling, an unseen category, a number with separators, a picture with transparency. A
    modality without edges has a missing value alone.
    """
    cells: dict[str, list[Any]] = {}
    for each in pipeline.artifact.inputs:
        for name in each.columns:
            column = next(c for c in pipeline.artifact.schema.columns if c.name == name)
            state = State(each.state.json["columns"][name]["state"]) if each.modality == "table" else each.state
            edges = getattr(column.modality, "edges", None)
            cells.setdefault(name, edges({**each.processor, **column.settings}, state) if edges else [None])
    most = max(map(len, cells.values()), default=0)
    rows = Rows({c.name: [cells[c.name][i % len(cells[c.name])] for i in range(most)] for c in pipeline.artifact.schema.columns})
    table, _ = pipeline.parse(rows)
    return {name: list(given) for name, given in rows.take(table.source).columns.items()}


def _raw(cell: Any, value: Any) -> Any:
    """The raw cell; a picture's bytes in place of its path."""
    data = getattr(value, "data", None)
    return data if isinstance(data, bytes) else cell


def pack_cell(cell: Any) -> Any:
    """A raw cell as JSON that `unpack_cell` reads back to what parses alike."""
    if isinstance(cell, bytes):
        return {"bytes": base64.b64encode(cell).decode()}
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, datetime.date | datetime.datetime):
        return cell.isoformat()
    if isinstance(cell, float) and cell != cell:
        return None
    if isinstance(cell, Mapping):
        return {str(key): pack_cell(c) for key, c in cell.items()}
    if isinstance(cell, np.ndarray | list | tuple):
        return [pack_cell(c) for c in cell]
    return (
        cell
        if isinstance(cell, str | int | float | bool) or cell is None
        else None
        if type(cell).__name__ in ("NaTType", "NAType")
        else str(cell)
    )


def unpack_cell(cell: Any) -> Any:
    """The inverse of `pack_cell`, for whoever reads a replay."""
    return base64.b64decode(cell["bytes"]) if isinstance(cell, dict) and set(cell) == {"bytes"} else cell


def pack_columns(columns: Mapping[str, Sequence[Any]] | None) -> Json:
    """Raw columns as JSON."""
    return columns and {name: [pack_cell(cell) for cell in cells] for name, cells in columns.items()}


def unpack_columns(columns: Json) -> dict[str, list[Any]]:
    """The inverse of `pack_columns`."""
    return {name: [unpack_cell(cell) for cell in cells] for name, cells in columns.items()}


@dataclass(frozen=True)
class Stages:
    """Every stage of one pass."""

    table: Table
    encoded: Mapping[str, Array]
    calls: Sequence[tuple[str, Mapping[str, Array]]]
    predictions: Sequence[Mapping[str, Any]]
    ports: Mapping[int, Mapping[str, Port]]
    owner: Array
    examples: Mapping[str, Mapping[str, Array]]
    margins: Sequence[tuple[tuple[int, ...], float]]  # by prediction: its rows of the table, and how far outputs may move

    def firm(self) -> list[int]:
        """The rows whose answers stand however outputs move within the tolerance of calls, two of them apart."""
        moved = max((allowed(array) for _, outputs in self.calls for array in outputs.values()), default=0.0)
        loose = {row for rows, margin in self.margins if margin <= 2 * moved for row in rows}
        return [row for row in range(len(self.table)) if row not in loose]


def run(pipeline: Pipeline, runner: Runner, rows: Rows) -> Stages:
    """One pass over raw rows that keeps every stage; of what stays in the runtime (caches) nothing, it shows in later calls.

    Raises MainstemError where a row does not parse.
    """
    table, errors = pipeline.parse(rows)
    if errors:
        raise next(iter(errors.values()))
    examples_of = pipeline.examples(table)
    batch = pipeline.task.encode(examples_of, pipeline.processors)
    calls: list[tuple[str, Mapping[str, Array]]] = []
    ports: dict[int, Mapping[str, Port]] = {}
    examples: dict[str, Mapping[str, Array]] = {}
    recorded = 0

    def watch(call: Call, outputs: Mapping[str, Any]) -> None:
        nonlocal recorded
        told = {name: value for name, value in outputs.items() if not isinstance(value, Kept)}
        recorded += sum(array.nbytes for array in told.values())
        spec = pipeline.artifact.graphs[call.graph]
        ports[len(calls)] = {port.name: port for port in spec.outputs}
        calls.append((call.graph, told if recorded <= MOST_RECORDED else {}))
        inputs: dict[str, Array] = {}
        for name, given in call.inputs.items():
            inputs.update(given.arrays if isinstance(given, Kept) else {name: given})
        if len(inputs) >= len(examples.get(call.graph, {})):
            examples[call.graph] = inputs

    answers = drive(pipeline.start(batch, pipeline.task.replayed, seeds_of(examples_of, table)), runner, watch)
    encoded = {f"{name}/{key}": array for name, arrays in batch.inputs.items() for key, array in arrays.items()}
    margins = [
        (example.source, answer.margin if isinstance(answer, Prediction) else np.inf)
        for example, answer in zip(examples_of, answers, strict=True)
    ]
    return Stages(table, encoded, calls, [rendered(pipeline, a) for a in answers], ports, batch.owner, examples, margins)


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: files.Folder, replay: Replay, mode: str = "full") -> None:
    """The replay as files of a model folder that is being written. Mode "hashes" keeps no input data."""
    private = mode == "hashes"
    arrays = {f"call/{i}/{name}": array for i, (_, outputs) in enumerate(replay.calls) for name, array in outputs.items()}
    if not private:
        arrays.update({f"encoded/{name}": array for name, array in replay.encoded.items()})
    record = {
        "mode": mode,
        "columns": None if private else pack_columns(replay.columns),
        "edges": pack_columns(replay.edges),
        "hashes": list(replay.hashes),
        "encoded": {name: _row_hashes(array) for name, array in replay.encoded.items()} if private else sorted(replay.encoded),
        "calls": [{"graph": graph, "outputs": sorted(outputs)} for graph, outputs in replay.calls],
        "predictions": list(replay.predictions),
    }
    folder.add_json("replay/replay.json", record)
    folder.add("replay/arrays.safetensors", artifact.pack_arrays(arrays))


def read(folder: Path) -> Replay:
    """The replay of a model folder."""
    try:
        record = json.loads((folder / "replay/replay.json").read_bytes())
        arrays = artifact.read_arrays(folder / "replay/arrays.safetensors")
        encoded = record["encoded"] if isinstance(record["encoded"], dict) else {n: arrays[f"encoded/{n}"] for n in record["encoded"]}
        calls = [(c["graph"], {n: arrays[f"call/{i}/{n}"] for n in c["outputs"]}) for i, c in enumerate(record["calls"])]
        columns, edges = record["columns"], unpack_columns(record["edges"])
        return Replay(columns and unpack_columns(columns), edges, record["hashes"], encoded, calls, record["predictions"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MainstemError(f"the replay cannot be read ({type(error).__name__}: {error})", where=str(folder)) from None


def _row_hashes(array: Array) -> list[str]:
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).hexdigest() for row in array]


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(pipeline: Pipeline, runner: Runner, replay: Replay, rows: Rows | None = None, where: str = "") -> dict[str, float]:
    """Do the replay again and return the worst difference by stage. Raises Mismatch at the first stage that differs, or that breaks.

    rows: the golden rows in the order of the replay (`Replay.rows`), where it keeps hashes only.
    """
    try:
        return _compare(pipeline, runner, replay, rows or replay.rows(), where)
    except (MainstemError, MemoryError, OSError):
        raise
    except Exception as error:  # contents that contradict each other break anywhere, in any way
        raise Mismatch("replay", None, f"it breaks ({type(error).__name__}: {_short(str(error), 200)})", where) from error


@contextmanager
def blamed(pipeline: Pipeline, runner: Runner, folder: Path) -> Iterator[None]:
    """Around answers of a model. An error that nobody foresaw is the model's where its replay breaks or differs too (Mismatch),
    and else a bug of ours, which is raised as it is."""
    try:
        yield
    except (MainstemError, MemoryError, OSError):
        raise
    except Exception:
        recorded = read(folder)
        if recorded.columns is not None:
            compare(pipeline, runner, recorded, where=str(folder))
        raise


def _compare(pipeline: Pipeline, runner: Runner, replay: Replay, rows: Rows, where: str) -> dict[str, float]:
    table, errors = pipeline.parse(rows)
    if errors:
        row = min(errors)
        raise Mismatch("parse", row, f"it no longer parses: {errors[row].what}", where)
    _equal_lists(table.hashes, replay.hashes, "parse", where)
    stages = run(pipeline, runner, rows)
    worst = {"parse": 0.0, "encode": _compare_encoded(pipeline, stages, replay, where)}
    if [graph for graph, _ in stages.calls] != [graph for graph, _ in replay.calls]:
        raise Mismatch("calls", None, "other graphs are called, or in another order", where)
    for i, ((graph, new), (_, old)) in enumerate(zip(stages.calls, replay.calls, strict=True)):
        size = _compare_call(new, old, stages.ports[i], f"call {graph}", where)
        worst[f"call {graph}"] = max(worst.get(f"call {graph}", 0.0), size)
    worst["decode"] = _compare_predictions(pipeline, stages.predictions, replay.predictions, "decode", where)
    return worst


def _equal_lists(new: Sequence[str], old: Sequence[str], stage: str, where: str) -> None:
    for row, (a, b) in enumerate(zip(new, old, strict=False)):
        if a != b:
            raise Mismatch(stage, row, "another value", where)
    if len(new) != len(old):
        raise Mismatch(stage, None, f"{len(new)} rows instead of {len(old)}", where)


def _compare_encoded(pipeline: Pipeline, stages: Stages, replay: Replay, where: str) -> float:
    """Equal; arrays that a modality computes by linear algebra, whose last digits differ from processor to processor, as calls are."""
    inputs = pipeline.artifact.inputs
    computed = {f"{each.name}/{array}" for each in inputs for array in getattr(encoder(each.modality), "computed", ())}
    worst = 0.0
    if sorted(stages.encoded) != sorted(replay.encoded):
        raise Mismatch("encode", None, f"other arrays: {sorted(stages.encoded)} instead of {sorted(replay.encoded)}", where)
    for name, old in replay.encoded.items():
        new, stage = stages.encoded[name], f"encode {name}"
        if name in computed:
            if not isinstance(old, list):
                worst = max(worst, _compare_call({name: new}, {name: old}, {}, stage, where))
        elif isinstance(old, list):
            _equal_lists(_row_hashes(new), old, stage, where)
        elif new.shape != old.shape or new.dtype != old.dtype:
            raise Mismatch(
                stage, _first_other_row(new, old), f"an array {new.dtype}{list(new.shape)} instead of {old.dtype}{list(old.shape)}", where
            )
        elif not np.array_equal(new, old, equal_nan=new.dtype.kind == "f"):
            row = _first_row((new != old) & ~((new != new) & (old != old)))
            raise Mismatch(stage, int(stages.owner[row]), f"differs by up to {_largest(new, old):.3g}, and must be equal", where)
    return worst


def _compare_call(new: Mapping[str, Array], old: Mapping[str, Array], ports: Mapping[str, Port], stage: str, where: str) -> float:
    worst = 0.0
    if sorted(new) != sorted(old):
        raise Mismatch(stage, None, f"other outputs: {sorted(new)} instead of {sorted(old)}", where)
    for name, expected in old.items():
        found = new[name]
        if found.shape != expected.shape:
            raise Mismatch(f"{stage} output {name}", None, f"shape {list(found.shape)} instead of {list(expected.shape)}", where)
        if not expected.size:
            continue
        most = allowed(expected)
        wrong = ~(np.abs(found.astype(np.float64) - expected.astype(np.float64)) <= most) & ~((found != found) & (expected != expected))
        wrong &= ~(found == expected)
        size = _largest(found, expected)
        if wrong.any():
            axes = ports[name].axes if name in ports else ()
            row = _first_row(np.moveaxis(wrong, axes.index("row"), 0)) if "row" in axes else None
            raise Mismatch(f"{stage} output {name}", row, f"differs by up to {size:.3g}, allowed {most:.3g}", where)
        worst = max(worst, size)
    return worst


def allowed(expected: Array) -> float:
    """By how much an output of a call may differ from the recorded one."""
    if expected.dtype.kind in "iub":
        return 0.0
    return ABSOLUTE + RELATIVE * float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))


def _compare_predictions(
    pipeline: Pipeline, new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]], stage: str, where: str
) -> float:
    worst = 0.0
    if len(new) != len(old):
        raise Mismatch(stage, None, f"{len(new)} predictions instead of {len(old)}", where)
    for row, (a, b) in enumerate(zip(old, new, strict=True)):
        if ("error" in a) != ("error" in b):
            raise Mismatch(stage, row, f"{b.get('error', 'an answer')} instead of {a.get('error', 'an answer')}", where)
        if "error" in a:
            continue
        size = pipeline.task.differ(as_prediction(a), as_prediction(b))
        if not size <= pipeline.task.tolerance:
            found, expected = b.get("prediction"), a.get("prediction")
            said = f"{_short(repr(found))} instead of {_short(repr(expected))}, " if found != expected else ""
            raise Mismatch(stage, row, f"{said}differs by {size:.3g}, allowed {pipeline.task.tolerance:.3g}", where)
        worst = max(worst, size)
    return worst


def rendered(pipeline: Pipeline, answer: Prediction | MainstemError) -> dict[str, Any]:
    """An answer as JSON: a prediction, or {"error": sentence}."""
    return {"error": str(answer)} if isinstance(answer, MainstemError) else pipeline.render(answer)


def as_answer(rendered: Mapping[str, Any]) -> Prediction | MainstemError:
    """The inverse of `rendered`."""
    return MainstemError(rendered["error"]) if "error" in rendered else as_prediction(rendered)


def as_prediction(rendered: Mapping[str, Any]) -> Prediction:
    """A rendered prediction as the object again."""
    known = {"prediction", "score", "scores", "low", "high"}
    more = {key: value for key, value in rendered.items() if key not in known}
    return Prediction(
        rendered.get("prediction"), rendered.get("score"), rendered.get("scores", {}), rendered.get("low"), rendered.get("high"), more
    )


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _largest(a: Array, b: Array) -> float:
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(np.max(difference, initial=0.0, where=np.isfinite(difference)))


def _first_row(wrong: Array) -> int:
    return int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))[0])


def _first_other_row(new: Array, old: Array) -> int | None:
    """The first row that differs where the widths do: padding apart, so that the row at fault is named."""
    if new.ndim != 2 or old.ndim != 2 or len(new) != len(old):
        return None
    width = max(new.shape[1], old.shape[1])
    a, b = (np.pad(x.astype(np.float64), ((0, 0), (0, width - x.shape[1]))) for x in (new, old))
    return _first_row(a != b) if (a != b).any() else None


# --- sealing and verifying --------------------------------------------------------------------------------------------


def seal(folder: Path, golden: Replay, test: Rows | None, expected: Mapping[str, float], timeout: float = 600) -> dict[str, Any]:
    """Verify a written folder in a fresh process without PyTorch, with its metrics on the test rows; returns seal.json's contents.

    golden: the replay with its rows (the folder may keep only their hashes); expected: the live model's metrics on the
    test rows. Raises Mismatch, with the stage, where the folder does not reproduce.
    """
    request: dict[str, Any] = {"folder": str(folder), "golden": pack_columns(golden.rows().columns), "columns": None}
    if test is not None:
        request["columns"] = pack_columns(test.columns)
        request["base"] = str(test.base) if test.base else None
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['torch'] = None; from mainstem.seal import _fresh; _fresh()"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        start_new_session=True,  # Ctrl-C on the terminal is for the run, which seals what it has
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"the verifying process failed with code {done.returncode}:\n{done.stderr[-4000:]}") from None
    if "mismatch" in answer:
        raise Mismatch(**answer["mismatch"])
    if "error" in answer:
        raise MainstemError(f"the written folder does not work: {answer['error']}")
    for name, value in answer["metrics"].items():
        live = expected.get(name)
        if (
            live is not None
            and value is not None
            and abs(live - value) > max(ABSOLUTE + RELATIVE * abs(live), 1.5 / max(answer["tested"], 1))
        ):
            raise Mismatch("metric", None, f"{name} {value:.6g} instead of {live:.6g} on the test part")
    return {**answer, "measured": dict(expected), "versions": versions()}


def versions() -> dict[str, str]:
    """What the answers depend on."""
    import onnxruntime
    import PIL
    import tokenizers

    return {
        "mainstem": mainstem.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "tokenizers": tokenizers.__version__,
        "pillow": PIL.__version__,
    }


def _fresh() -> None:
    """The fresh process: reads a request on standard input, prints one line of JSON."""
    request = json.loads(sys.stdin.read())
    try:
        answer = _check(Path(request["folder"]), Rows(unpack_columns(request["golden"])), request["columns"], request.get("base"))
    except Mismatch as error:
        answer = {"mismatch": {"stage": error.stage, "row": error.row, "size": error.size}}
    except MainstemError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def _check(folder: Path, golden: Rows, columns: Mapping[str, Sequence[Any]] | None, base: str | None) -> dict[str, Any]:
    from mainstem.evaluation.report import point_metrics

    pipeline, runner = open_folder(folder)
    replay = read(folder)
    worst = compare(pipeline, runner, replay, golden)
    answer: dict[str, Any] = {"rows": len(replay), "worst": worst, "metrics": {}, "tested": 0}
    if columns is not None:
        rows = Rows(unpack_columns(columns), base=Path(base) if base else None)
        table, _ = pipeline.parse(rows, target=True)
        predictions = pipeline.judge_table(table, runner)
        answer["tested"] = len(table)
        answer["metrics"] = point_metrics(
            pipeline.artifact.task, predictions, table.target or [], pipeline.artifact.state.json.get("labels", [])
        )
    return answer


def open_folder(folder: Path, cache: dict[str, Any] | None = None) -> tuple[Pipeline, Runner]:
    """The pipeline of a model folder and a Runner over its graphs, unverified: callers verify first.

    Raises MainstemError where the contents make no sense.
    """
    from mainstem.runtimes import onnx

    try:
        pipeline = Pipeline(artifact.read(folder))
        return pipeline, onnx.runner(folder, pipeline.artifact.graphs, cache)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, RecursionError) as error:
        raise MainstemError(f"this does not describe a model ({type(error).__name__}: {error})", where=str(folder)) from error


def verify(path: Path | str, data: Rows | None = None, url: str = "", token: str = "") -> dict[str, Any]:
    """Hold the model at `path` against its replay, here or at a live server's `url`. Raises Mismatch where it differs.

    data: rows that hold the golden ones, for a model that keeps only their hashes. Returns {"rows", "worst"}.
    """
    folder = artifact.find(path)
    artifact.check(folder)
    pipeline, runner = open_folder(folder)
    replay = read(folder)
    rows = _golden(pipeline, replay, data)
    if url:
        answers = _ask(url, token, rows, pipeline.task.replayed)
        return {"rows": len(replay), "worst": {"served": _compare_predictions(pipeline, answers, replay.predictions, "served", url)}}
    return {"rows": len(replay), "worst": compare(pipeline, runner, replay, rows, str(folder))}


def _golden(pipeline: Pipeline, replay: Replay, data: Rows | None) -> Rows:
    """The golden rows in order: those of the replay, or found in `data` by their hashes."""
    if data is None:
        return replay.rows()
    data = pipeline.artifact.schema.gathered(data, target=True)
    table, _ = pipeline.parse(data)
    places = {h: source for h, source in zip(table.hashes, table.source, strict=True)}
    wanted = replay.hashes[: len(replay)]
    missing = [h for h in wanted if h not in places]
    if missing and replay.columns is not None:
        return replay.rows()
    if missing:
        raise MainstemError(
            f"{len(missing)} of the {len(wanted)} replay rows are not in this data",
            where=data.where,
            do="Give the data that the model was trained on.",
        )
    return replay.rows(data.take([places[h] for h in wanted]))


def _ask(url: str, token: str, rows: Rows, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The predictions of a live server for these rows."""
    import urllib.error
    import urllib.request

    asked = [{k: _sent(v[i]) for k, v in rows.columns.items()} for i in range(len(rows))]
    body = json.dumps({"rows": asked, "options": dict(options)}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as response:
            answers: list[dict[str, Any]] = json.loads(response.read())["predictions"]
            return answers
    except urllib.error.HTTPError as error:
        raise MainstemError(f"the server answered {error.code}: {error.read()[:300].decode(errors='replace')}", where=url) from None
    except (OSError, ValueError, KeyError) as error:
        raise MainstemError(
            f"the server cannot be asked: {error}", where=url, do="Give the address of the model, http://HOST:PORT/predict/NAME."
        ) from None


def _sent(cell: Any) -> Any:
    return base64.b64encode(cell).decode() if isinstance(cell, bytes) else pack_cell(cell)

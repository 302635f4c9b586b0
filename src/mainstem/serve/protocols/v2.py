"""The Open Inference Protocol v2 over HTTP, with Triton's extensions for binary data and the model repository.

Every column of a model is one input of one value a row: FP64 for numbers (any numeric type is taken, NaN is missing), BYTES for the
rest: the text in UTF-8, the bytes of a picture's file (base64 in JSON). Outputs: "prediction", and "score", "scores", "low", "high"
where the task has them; what is neither text nor number is JSON in BYTES.
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

import mainstem
from mainstem.contracts import ABSENT, Rows
from mainstem.errors import MainstemError
from mainstem.schema import Column
from mainstem.serve import requests
from mainstem.serve.asking import answer, arrived, identity, named, parsing, stamp
from mainstem.serve.guard import Access, Guarded, packed, reply
from mainstem.serve.models import Answers, Models, Served
from mainstem.serve.protocols import _tensors
from mainstem.serve.protocols._tensors import HEADER, Tensor

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_repository(unload_dependents)")
# Parameters of Triton's own extensions that ask for nothing here, and those that the protocol itself reads.
_IDLE = {"priority": 0, "sequence_id": 0, "sequence_start": False, "sequence_end": False, "timeout": None}
_READ = ("binary_data_output",)


def routes() -> list[Guarded]:
    """All of its routes. Health is open, and says no more than yes or no."""
    made = [
        Guarded("/v2", _server, Access.TOKEN),
        Guarded("/v2/health/live", _live, Access.OPEN),
        Guarded("/v2/health/ready", _ready, Access.OPEN),
        Guarded("/v2/repository/index", _index, Access.TOKEN, ["POST"]),
        Guarded("/v2/repository/models/{name}/load", _load, Access.ADMIN, ["POST"]),
        Guarded("/v2/repository/models/{name}/unload", _unload, Access.ADMIN, ["POST"]),
        Guarded("/v2/repository/models/{name}/rollback", _rollback, Access.ADMIN, ["POST"]),
    ]
    for start in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        made += [
            Guarded(start, _model, Access.TOKEN),
            Guarded(f"{start}/ready", _model_ready, Access.TOKEN),
            Guarded(f"{start}/infer", _infer, Access.TOKEN, ["POST"]),
        ]
    return made


# --- health and metadata ------------------------------------------------------------------------------------------------


async def _live(request: Request) -> Response:
    return reply({"live": True})


async def _ready(request: Request) -> Response:
    ready = request.app.state.models.ready
    return reply({"ready": ready}, 200 if ready else 503)


async def _server(request: Request) -> Response:
    return reply({"name": "mainstem", "version": mainstem.__version__, "extensions": EXTENSIONS})


async def _model(request: Request) -> Response:
    served = _found(request)
    version, digest = identity(served)
    return reply(
        {
            "name": served.name,
            "versions": [version],
            "platform": "onnxruntime_mainstem",
            "inputs": [{"name": c.name, "datatype": _datatype(c), "shape": [-1]} for c in _columns(served)],
            "outputs": _outputs(served),
            "parameters": {"task": served.pipeline.artifact.task, "digest": digest},
        },
        headers=stamp(served),
    )


async def _model_ready(request: Request) -> Response:
    served = _found(request)
    return reply({"name": served.name, "ready": served.ready}, 200 if served.ready else 503)


def _found(request: Request) -> Served:
    """The model of the path. Raises NotFound, also for a version that is not served."""
    served = named(request)
    asked, version = request.path_params.get("version"), identity(served)[0]
    if asked is not None and asked != version:
        raise requests.NotFound(f"'{served.name}' is served in version {version}, not '{asked[:64]}'")
    return served


def _columns(served: Served) -> Sequence[Column]:
    return served.pipeline.artifact.schema.long


def _datatype(column: Column) -> str:
    return "FP64" if column.kind == "number" else "BYTES"


def _outputs(served: Served) -> list[dict[str, Any]]:
    """What an answer holds, as far as it can be known before one is made."""
    labels = served.pipeline.artifact.state.json.get("labels") or []
    kind = "FP64" if served.pipeline.task.target == "number" else "BYTES"
    made: list[dict[str, Any]] = [{"name": "prediction", "datatype": kind, "shape": [-1]}]
    if labels and served.pipeline.task.target == "category":
        made.append({"name": "score", "datatype": "FP64", "shape": [-1]})
    if labels:
        scores = {"name": "scores", "datatype": "FP64", "shape": [-1, len(labels)]}
        made.append({**scores, "parameters": {"labels": packed([str(label) for label in labels]).decode()}})
    return made


# --- inference ----------------------------------------------------------------------------------------------------------


async def _infer(request: Request) -> Response:
    served = _found(request)
    served.check_ready()
    data = await arrived(request)
    asked, tail = _split(data, request.headers.get(HEADER))
    rows = await parsing(len(data), _rows, asked, tail, served)
    answers = await answer(request, served, rows, _options(asked))
    for each in answers:
        if isinstance(each, MainstemError):
            raise each
    tensors = _wanted(asked, _answered(served, answers))
    version, digest = identity(served)
    about = {"model_name": served.name, "model_version": version, "parameters": {"digest": digest}}
    head = {"id": asked["id"], **about} if "id" in asked else about
    body, length = _tensors.write(head, tensors)
    if length is None:
        return Response(body, 200, stamp(served), "application/json")
    return Response(body, 200, {**stamp(served), HEADER: str(length)}, "application/octet-stream")


def _split(data: bytes, header: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON of a request, and the binary data behind it."""
    size = len(data) if header is None else int(header) if header.isascii() and header.isdigit() else -1
    if not 0 <= size <= len(data):
        raise requests.Malformed(f"{HEADER} is the length of the JSON in front of the binary data", do=f"Send up to {len(data)}.")
    do = 'Send {"inputs": [{"name": …, "datatype": …, "shape": [rows], "data": […]}]}.'
    asked = requests.body(data[:size], ("inputs", "outputs", "id", "parameters"), do)
    if not isinstance(asked.get("id", ""), str) or not isinstance(asked.get("parameters", {}), dict):
        raise MainstemError("'id' is a text and 'parameters' are an object", do=do)
    return asked, memoryview(data)[size:]


def _rows(asked: Mapping[str, Any], tail: memoryview, served: Served) -> Rows:
    """The tensors of a request as raw rows, a column each."""
    tensors = _tensors.read(asked.get("inputs"), tail)
    known = {column.name: column for column in _columns(served)}
    if unknown := [name for name in tensors if name not in known]:
        raise MainstemError(f"the model has no input '{unknown[0][:64]}'", do=f"Inputs: {', '.join(known)}.")
    counts = {tensor.rows for tensor in tensors.values()}
    if len(counts) != 1:
        raise MainstemError("all inputs have the same number of rows", do=f"Inputs: {', '.join(known)}.")
    [count] = counts
    missing = {name: [ABSENT] * count for name in served.pipeline.artifact.schema.names if name not in tensors}
    return Rows({**missing, **{name: _cells(known[name], tensor) for name, tensor in tensors.items()}})


def _cells(column: Column, tensor: Tensor) -> list[Any]:
    """The values of a column as raw cells: NaN is missing; bytes are text, but of pictures, whose base64 is text as well."""
    if tensor.datatype != "BYTES":
        return [None if value != value else value for value in tensor.values]
    if column.kind == "image":
        return list(tensor.values)
    return [_text(value, column.name) if isinstance(value, bytes) else value for value in tensor.values]


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MainstemError(f"the bytes of '{name}' are no UTF-8", do="Encode texts in UTF-8.") from None


def _options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the task: parameters that the protocol does not read. Raises MainstemError for what is not done here."""
    parameters = asked.get("parameters", {})
    for name, idle in _IDLE.items():
        if name in parameters and idle is not None and parameters[name] != idle:
            raise MainstemError(f"'{name}' is not supported; leave it out")
    return {name: value for name, value in parameters.items() if name not in _IDLE and name not in _READ}


def _answered(served: Served, answers: Answers) -> dict[str, Tensor]:
    """Predictions as tensors."""
    rendered = [served.pipeline.render(each) for each in answers if not isinstance(each, MainstemError)]
    labels = [str(label) for label in served.pipeline.artifact.state.json.get("labels") or []]
    made = {}
    for name in ("prediction", "score", "low", "high"):
        values = [each.get(name) for each in rendered]
        if name == "prediction" or any(value is not None for value in values):
            made[name] = _tensors.of(values, "FP64" if name != "prediction" else "")
    if labels and all("scores" in each for each in rendered):
        told = {"labels": packed(labels).decode()}
        made["scores"] = _tensors.of([[each["scores"].get(label) for label in labels] for each in rendered], "FP64", len(labels), told)
    return made


def _wanted(asked: Mapping[str, Any], tensors: dict[str, Tensor]) -> list[tuple[str, Tensor, bool]]:
    """(name, tensor, whether it is sent as binary data) of each output that is asked for. Raises MainstemError for an unknown one."""
    always = asked.get("parameters", {}).get("binary_data_output") is True
    outputs = asked.get("outputs", [])
    if outputs == []:
        return [(name, tensor, always) for name, tensor in tensors.items()]
    if not isinstance(outputs, list) or not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs):
        raise MainstemError("'outputs' are objects with a name", do=f"Outputs: {', '.join(tensors)}.")
    made = []
    for each in outputs:
        name, parameters = each["name"], each.get("parameters", {})
        if name not in tensors:
            raise MainstemError(f"the model has no output '{name[:64]}'", do=f"Outputs: {', '.join(tensors)}.")
        if not isinstance(parameters, dict) or parameters.get("classification"):
            raise MainstemError("the classification extension is not supported", do="Ask for the output 'scores'.")
        made.append((name, tensors[name], parameters.get("binary_data", always) is True))
    return made


# --- the repository -----------------------------------------------------------------------------------------------------


async def _index(request: Request) -> Response:
    asked = await _parameters(request, ("ready",))
    models: Models = request.app.state.models
    listed = []
    for served in models:
        state = "READY" if served.ready else "UNAVAILABLE"
        if served.ready or not asked.get("ready"):
            reason = "" if served.ready else served.state
            listed.append({"name": served.name, "version": identity(served)[0], "state": state, "reason": reason})
    return reply(listed)


async def _load(request: Request) -> Response:
    """Open the model's folder again, or one that has come into the repository; it answers once it has answered its golden rows."""
    await _parameters(request, ("parameters",))
    name, state = request.path_params["name"], request.app.state
    folder = state.place(name)
    await _told(state.models.load, name, folder)
    state.refresh()
    return reply({"name": name, "version": identity(state.models.find(name))[0]})


async def _unload(request: Request) -> Response:
    await _parameters(request, ("parameters",))
    served = named(request)
    await _told(request.app.state.models.unload, served.name)
    request.app.state.refresh()
    return reply({"name": served.name})


async def _rollback(request: Request) -> Response:
    """Back to the version before."""
    served = named(request)
    await _told(request.app.state.models.rollback, served.name)
    request.app.state.refresh()
    return reply({"name": served.name, "version": identity(request.app.state.models.find(served.name))[0]})


async def _told(work: Callable[..., Any], *arguments: Any) -> None:
    """Call what may be a coroutine function, or work for a while."""
    if inspect.iscoroutinefunction(work):
        await work(*arguments)
    else:
        await run_in_threadpool(work, *arguments)


async def _parameters(request: Request, fields: Sequence[str]) -> dict[str, Any]:
    """The object that a request may bring. Of the parameters of a load none is taken: a folder is never named by a client."""
    data = await arrived(request)
    asked = requests.body(data, fields, "Send {}.") if data else {}
    given = asked.get("parameters", {})
    if not isinstance(asked.get("ready", True), bool):
        raise MainstemError("'ready' is true or false", do='Send {"ready": true}.')
    if not isinstance(given, dict) or [name for name, value in given.items() if name != "unload_dependents" or not isinstance(value, bool)]:
        raise MainstemError("models are loaded as they were sealed, without parameters", do="Send {}.")
    return asked

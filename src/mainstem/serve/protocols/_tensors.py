"""Tensors of the Open Inference Protocol ⇄ lists of values, in JSON and as binary data behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mainstem.errors import MainstemError
from mainstem.serve import requests
from mainstem.serve.guard import packed

HEADER = "Inference-Header-Content-Length"
DTYPES = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
MOST_TENSORS = 10_000
FIELDS = ("name", "datatype", "shape", "data", "parameters")


@dataclass(frozen=True)
class Tensor:
    """Values in row-major order. Of inputs one value a row; `shape` of outputs."""

    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The length of the first axis."""
        return self.shape[0]


def read(inputs: Any, tail: memoryview) -> dict[str, Tensor]:
    """The inputs of a request by name. Raises MainstemError for anything that is not as the protocol has it."""
    if not isinstance(inputs, list) or not inputs or len(inputs) > MOST_TENSORS:
        raise requests.Malformed("the inputs are a list of tensors", do='Send {"inputs": [{"name": …, "datatype": …, "shape": …}]}.')
    made: dict[str, Tensor] = {}
    for each in inputs:
        name, tensor, tail = _input(each, tail)
        if name in made:
            raise MainstemError(f"the input '{name[:64]}' comes twice")
        made[name] = tensor
    if len(tail):
        raise MainstemError(f"{len(tail):,} bytes of binary data belong to no input", do="State each one's binary_data_size.")
    return made


def _input(each: Any, tail: memoryview) -> tuple[str, Tensor, memoryview]:
    if not isinstance(each, dict) or not isinstance(each.get("name"), str) or not set(each) <= set(FIELDS):
        raise MainstemError("an input has a name, a datatype, a shape, and data", do=f"Known: {', '.join(FIELDS)}.")
    name, datatype, shape = each["name"], each.get("datatype"), each.get("shape")
    where = f"input '{name[:64]}'"
    if not isinstance(datatype, str) or (datatype not in DTYPES and datatype != "BYTES"):
        raise MainstemError(f"there is no datatype {str(datatype)[:32]!r}", where=where, do=f"Known: {', '.join([*DTYPES, 'BYTES'])}.")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and 0 <= n <= 1 << 31 for n in shape):
        raise MainstemError("a shape is a list of whole numbers", where=where, do="One value a row: [rows] or [rows, 1].")
    if any(n != 1 for n in shape[1:]):
        raise MainstemError("an input has one value a row", where=where, do="Its shape is [rows] or [rows, 1].")
    parameters = each.get("parameters", {})
    if not isinstance(parameters, dict):
        raise MainstemError("parameters are an object", where=where)
    size = parameters.get("binary_data_size")
    if size is None:
        values = _listed(each.get("data"), shape[0], datatype, where)
        return name, Tensor(datatype, (shape[0],), values), tail
    if type(size) is not int or not 0 <= size <= len(tail):
        raise MainstemError(f"there are {len(tail):,} bytes of binary data left, not the binary_data_size", where=where)
    return name, Tensor(datatype, (shape[0],), _unpacked(tail[:size], shape[0], datatype, where)), tail[size:]


def _listed(data: Any, rows: int, datatype: str, where: str) -> list[Any]:
    """The values of JSON data: a list, or one of lists of one."""
    if not isinstance(data, list):
        raise MainstemError("the data are a list", where=where)
    values = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in data]
    if len(values) != rows:
        raise MainstemError(f"there are {len(values):,} values for {rows:,} rows", where=where)
    fine: tuple[type, ...] = (str, type(None)) if datatype == "BYTES" else (bool,) if datatype == "BOOL" else (int, float, type(None))
    wrong = [i for i, v in enumerate(values, 1) if not isinstance(v, fine) or (isinstance(v, bool) and datatype != "BOOL")]
    if wrong:
        raise MainstemError(f"value {wrong[0]:,} is not of the datatype {datatype}", where=where)
    return values


def _unpacked(data: memoryview, rows: int, datatype: str, where: str) -> list[Any]:
    """The values of binary data: little-endian, or each behind its length in four bytes."""
    if datatype != "BYTES":
        dtype = np.dtype(DTYPES[datatype])
        if len(data) != rows * dtype.itemsize:
            raise MainstemError(f"{rows:,} values of {datatype} have {rows * dtype.itemsize:,} bytes, not {len(data):,}", where=where)
        values: list[Any] = np.frombuffer(data, dtype).tolist()
        return values
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data) or len(found) == rows:
            break
        found.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(data) or len(found) != rows:
        raise MainstemError(f"the binary data do not hold {rows:,} values of BYTES", where=where)
    return found


def of(values: Sequence[Any], datatype: str = "", width: int | None = None, parameters: Mapping[str, Any] | None = None) -> Tensor:
    """Values of answers as a tensor: texts as BYTES, numbers as FP64, lists of numbers of one length as FP32, the rest as JSON in BYTES."""
    told = parameters or {}
    if datatype and width is not None:
        return Tensor(datatype, (len(values), width), [v for row in values for v in row], told)
    if datatype or (values and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)):
        return Tensor("FP64", (len(values),), [math.nan if v is None else v for v in values], told)
    lengths = {len(v) if isinstance(v, list) and all(isinstance(x, float) for x in v) else -1 for v in values}
    if len(lengths) == 1 and (size := lengths.pop()) > 0:
        return Tensor("FP32", (len(values), size), [x for v in values for x in v], told)
    return Tensor("BYTES", (len(values),), [v if isinstance(v, str) else packed(v).decode() for v in values], told)


def write(head: Mapping[str, Any], tensors: Sequence[tuple[str, Tensor, bool]]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where binary data follow."""
    outputs, tail = [], []
    for name, tensor, binary in tensors:
        output: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters = dict(tensor.parameters)
        if binary:
            data = _packed(tensor)
            parameters["binary_data_size"] = len(data)
            tail.append(data)
        else:
            output["data"] = tensor.values
        outputs.append({**output, "parameters": parameters} if parameters else output)
    body = packed({**head, "outputs": outputs})
    return b"".join([body, *tail]), len(body) if tail else None


def _packed(tensor: Tensor) -> bytes:
    if tensor.datatype != "BYTES":
        return np.array([math.nan if v is None else v for v in tensor.values], DTYPES[tensor.datatype]).tobytes()
    encoded = [value.encode() for value in tensor.values]
    return b"".join(part for value in encoded for part in (len(value).to_bytes(4, "little"), value))

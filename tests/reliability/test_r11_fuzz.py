"""Row 11: no input crashes the server. Requests are made from their schemas and then damaged: bad JSON, wrong shapes, not-a-number, huge
numbers, truncated uploads, slow clients, hang-ups; over plain JSON, lines, files, the v2 protocol, OpenAI's routes and the repository."""

import asyncio
import json
import random

import pytest
import serving
import trials
import wire

PROMISE = "of damaged requests none crashes the server, hangs or is answered 5xx but a deliberate 503; memory stays flat"
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1e308,
        -1e-308,
        10**30,
        2**63,
        "",
        "NaN",
        "x" * 5000,
        "\u0000",
        "\ud7ff",
        "😀中文",
        "null",
        "1,200",
        "../../etc/passwd",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": {"b": []}},
        {"": ""},
        [1, "a", None],
        "iVBORw0KGgo",
        "data:image/png;base64,AAAA",
        "http://127.0.0.1:1/x",
    ),
]
TOKENS = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"[" * 3000,
    b'{"a":' * 500,
    b"\x00",
    b'"',
    b"}",
    b",",
    b"0" * 400,
]
METHODS = [*["POST"] * 30, "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]


def bodies(rng):
    """(path, body, content type) of a right request."""
    row, text = {**wire.ROW, "area": rng.choice([1.5, None, "33"])}, {"text": rng.choice(["fine film", "很好", ""])}
    tensor = {"name": "area", "datatype": "FP32", "shape": [1], "data": [50]}
    others = [
        {"name": "rooms", "datatype": "INT8", "shape": [1], "data": [2]},
        {"name": "城区", "datatype": "BYTES", "shape": [1], "data": ["x"]},
    ]
    lines = b"\n".join(json.dumps(row).encode() for _ in range(rng.randint(1, 9)))
    file = b"area,rooms,\xe5\x9f\x8e\xe5\x8c\xba\n1,2,x\n"
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + file + b"\r\n--b--\r\n"
    return rng.choice(
        [
            ("/predict/table", {"rows": [row] * rng.randint(0, 5), "options": {}}, "application/json"),
            ("/predict/mood", {"rows": [text]}, "application/json"),
            ("/predict", {"tasks": rng.choice(["*", ["table", "mood"]]), "rows": [{**row, **text}], "options": {}}, "application/json"),
            ("/predict/table", lines, "application/x-ndjson"),
            ("/predict/table", form, "multipart/form-data; boundary=b"),
            ("/v2/models/table/infer", {"inputs": [tensor, *others], "outputs": [{"name": "prediction"}]}, "application/json"),
            ("/v1/embeddings", {"model": "embed", "input": ["fine"], "encoding_format": "base64"}, "application/json"),
            ("/v2/repository/index", {"ready": True}, "application/json"),
            ("/v2/repository/models/nowhere/load", {"parameters": {}}, "application/json"),
        ]
    )


def damaged(value, rng, depth=0):
    """A JSON value with one place of it replaced, dropped, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        made, name = dict(value), rng.choice(list(value))
        kind = rng.randrange(5)
        if kind == 0:
            del made[name]
        elif kind == 1:
            made[rng.choice(["x", "", "__class__", name + "s"])] = made.pop(name)
        elif kind == 2:
            made[rng.choice(["extra", "rows", "options"])] = rng.choice(VALUES)
        else:
            made[name] = damaged(made[name], rng, depth + 1)
        return made
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], damaged(value[place], rng, depth + 1), *value[place + rng.randint(0, 1) :]]
    return rng.choice(VALUES)


def mutated(data, rng):
    """Bytes with some flipped, cut out, doubled or put in."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(made) + 1), rng.randrange(4)
        if kind == 0 and place < len(made):
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[place : place + rng.randint(1, 20)]
        elif kind == 2:
            made[place:place] = made[max(0, place - 20) : place]
        else:
            made[place:place] = rng.choice(TOKENS)
    return bytes(made)


def request(rng):
    """(raw bytes, how they are sent, whether an answer is owed)."""
    path, body, kind = bodies(rng)
    fault = rng.randrange(10)
    if not isinstance(body, bytes):
        for _ in range(rng.randint(0, 2)):
            body = damaged(body, rng) if isinstance(body, dict) else body
        body = json.dumps(body, allow_nan=True).encode("utf-8", "surrogatepass")
    data = mutated(body, rng) if fault < 4 else body
    kind = rng.choice(
        [kind] * 8 + ["text/plain", "application/x-ndjson", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 100, ""]
    )
    more = (
        {"Inference_Header_Content_Length": rng.choice(["0", "5", "-1", "99999999999999999999", "x", str(len(data))])}
        if rng.random() < 0.1
        else {}
    )
    method = rng.choice(METHODS)
    if fault == 4:  # more is announced than comes
        return wire.head(path, len(data) + rng.randint(1, 1000), kind, method, **more) + data, {"cut": 10**9}, False
    if fault == 5:  # hung up somewhere
        whole = wire.head(path, len(data), kind, method, **more) + data
        return whole, {"cut": rng.randrange(len(whole))}, False
    if fault == 6:  # slow
        return (
            wire.head(path, len(data), kind, method, **more) + data[:300].ljust(min(len(data), 300)) + data[300:],
            {"drip": 97},
            method != "HEAD",
        )
    if fault == 7:  # chunked, with chunks that lie now and then
        lie = rng.choice([0, 0, 1])
        size = f"{len(data) + lie:x}".encode()
        start = wire.head(path, 0, kind, method, **more).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        return start + size + b"\r\n" + data + b"\r\n0\r\n\r\n", {"seconds": 1.0} if lie else {}, not lie and method != "HEAD"
    if fault == 8:  # another path
        path = rng.choice(
            [
                "/predict/",
                "/predict/%00",
                "/predict/" + "a" * 3000,
                "/v2/models/%2e%2e/infer",
                "/openapi.json?x=" + "y" * 2000,
                "//",
                "/%ff",
            ]
        )
    return wire.head(path, len(data), kind, method, **more) + data, {}, method != "HEAD"


def fine(status, headers, body):
    """Whether an answer is as promised: no 5xx but 503, and what is refused is told as JSON."""
    if status >= 500 and status != 503:
        return False
    if status < 400:
        return True
    if headers.get("content-type", "").startswith("application/json"):
        return "error" in json.loads(body)
    return status == 400 and b"Invalid HTTP request" in body  # of the HTTP parser, before there is a request


async def torment(count, port, n, seed, crowd=16):
    """n damaged requests, a crowd of them at a time. Returns how many of each status came."""
    rng, seen = random.Random(seed), {}
    waiting = [request(rng) for _ in range(n)]

    async def some():
        while waiting:
            data, how, owed = waiting.pop()
            status, headers, body = await wire.send(port, data, **how)
            seen[status] = seen.get(status, 0) + 1
            right = (not owed if not status else True) and (not status or fine(status, headers, body))
            count(right, f"{status} {body[:300]!r} of {data[:600]!r}")

    await asyncio.gather(*(some() for _ in range(crowd)))
    return {str(status): times for status, times in sorted(seen.items(), key=str)}


def whole(port):
    """What right requests are answered."""
    asked = [wire.post("/predict/table", {"rows": [wire.ROW]}), wire.post("/predict/mood", {"rows": [{"text": "fine 很好"}]})]
    asked.append(wire.post("/v1/embeddings", {"model": "embed", "input": "fine"}))
    return [asyncio.run(wire.send(port, data))[::2] for data in asked]


def trial(count, folders, n, warm, seed):
    with serving.started(*wire.named(folders)) as (process, port):
        before = whole(port)
        asyncio.run(torment(trials.Count(11, "", seed), port, warm, seed + 1))
        held = wire.resident(process)
        seen = asyncio.run(torment(count, port, n, seed))
        grown = wire.resident(process) / held - 1
        count(process.poll() is None, "the server has ended")
        count(whole(port) == before, "right requests are answered otherwise")
    return {"statuses": seen, "memory_grown": round(grown, 4)}


def test_damaged_requests(table_run, mood_run, embedder):
    count = trials.Count(11, PROMISE, 5)
    told = trial(count, wire.models(table_run, mood_run, embedder), 250, 50, 5)
    count.check()
    assert {"200", "400", "404", "422"} <= set(told["statuses"]), told
    assert told["memory_grown"] < 0.5


@pytest.mark.torture
def test_twenty_thousand_damaged_requests(table_run, mood_run, embedder):
    count = trials.Count(11, PROMISE, 20261127)
    total = trials.scaled(20_000)
    told = trial(count, wire.models(table_run, mood_run, embedder), total, max(50, total // 4), 20261127)
    count(told["memory_grown"] <= 0.05, told)
    count.write(**told)

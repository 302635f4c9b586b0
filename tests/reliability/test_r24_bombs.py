"""Row 24: bombs cost nothing. Small requests that mean to take much: pictures of gigapixels, compressed bodies, JSON of great depth, rows
without number, texts that tokenizers choke on, connections that never say anything. Each is answered at once, and the others go on."""

import asyncio
import base64
import gzip
import io
import random
import struct
import time
import zipfile
import zlib

import pytest
import serving
import trials
import wire

from mainstem.serve.requests import MOST_ROWS

PROMISE = "of bombs each is refused or answered within a second of processor time and 64 MB, and others are answered meanwhile"
MOST_GROWN = 64 << 20
TENSOR = {"name": "area", "datatype": "FP64"}


def png(width, height, rows=1):
    """A PNG whose header states this size, with `rows` rows of zeros in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(bytes((3 * width + 1) * rows) if rows else b"")
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(width, height):
    frame = struct.pack("<HHHH", 0, 0, width, height)
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00," + frame + b"\x00\x02\x02\x4c\x01\x00;"


def bmp(width, height):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def picture(data):
    return wire.post("/predict/pixels", {"rows": [{"image": base64.b64encode(data).decode()}]})


def bomb(rng):
    """(what it is, raw bytes)."""
    size = rng.randint(20_000, 65_000)
    packed = gzip.compress(bytes(50_000_000))
    deep = rng.randint(1000, 200_000)
    text = rng.choice(["a" * 49_000, "é" * 49_000, "(" * 49_000, "中" * 49_000, "a " * 24_000, "\u0301" * 49_000, "[PAD]" * 9_500])
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", bytes(10_000_000))
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--b--\r\n'
    kind = "multipart/form-data; boundary=b"
    return rng.choice(
        [
            lambda: ("png", picture(png(size, size))),
            lambda: ("png in a file", wire.post("/predict/pixels", form % (b"a.png", png(size, 65_000)), kind)),
            lambda: ("gif", picture(gif(65_000, size))),
            lambda: ("bmp", picture(bmp(size, size))),
            lambda: ("gzip", wire.post("/predict/table", packed, Content_Encoding=rng.choice(["gzip", "br", "deflate", "zstd"]))),
            lambda: ("zip", wire.post("/predict/table", form % (b"a.csv", zipped.getvalue()), kind)),
            lambda: ("depth", wire.post("/predict/table", b'{"rows": ' + rng.choice([b"[", b'{"a":']) * deep)),
            lambda: ("closed depth", wire.post("/predict/table", b'{"rows": [{"area": ' + b"[" * 500 + b"]" * 500 + b"}]}")),
            lambda: ("rows", wire.post("/predict/table", b'{"rows": [' + b"{}," * (MOST_ROWS + 5000) + b"{}]}")),
            lambda: ("columns", wire.post("/predict/table", {"rows": [{f"c{i}": i for i in range(20_000)}]})),
            lambda: ("text", wire.post("/predict/mood", {"rows": [{"text": text}]})),
            lambda: ("text of tokens", wire.post("/predict/embed", {"rows": [{"text": text}]})),
            lambda: ("texts", wire.post("/predict/embed", {"rows": [{"text": text}] * 10})),
            lambda: ("tasks", wire.post("/predict", {"tasks": [str(i) for i in range(50_000)], "rows": []})),
            lambda: ("tensor", wire.post("/v2/models/table/infer", {"inputs": [{**TENSOR, "shape": [2**31], "data": []}]})),
            lambda: ("shape", wire.post("/v2/models/table/infer", {"inputs": [{**TENSOR, "shape": [1] * 100_000}]})),
            lambda: ("length", wire.head("/predict/table", 10**15) + b"{}"),
            lambda: ("line", wire.post("/predict/table", b"x" * 9_000_000, "application/x-ndjson")),
            lambda: ("headers", wire.post("/predict/table", b"{}", **{f"X-{i}": "y" * 200 for i in range(300)})),
            lambda: ("number", wire.post("/predict/table", b'{"rows": [{"area": ' + b"9" * 1_000_000 + b', "rooms": 1}]}')),
            lambda: ("parts", wire.post("/predict/table", b"--b\r\n" * 200_000, kind)),
        ]
    )()


def spent(process):
    """Seconds of processor time of a server and its engines."""
    total = 0.0
    for pid in (process.pid, *serving.children(process.pid)):
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / 100
    return total


GOOD = ("/predict/table", {"rows": [wire.ROW]})


async def torment(count, process, port, n, seed):
    """n bombs, one at a time, with a good request beside each."""
    rng, worst = random.Random(seed), {"seconds": 0.0, "grown": 0}
    await wire.send(port, wire.post(*GOOD))
    for _ in range(n):
        kind, data = bomb(rng)
        held, used = wire.resident(process), spent(process)
        (status, _, body), (well, *_) = await asyncio.gather(wire.send(port, data), wire.send(port, wire.post(*GOOD)))
        seconds, grown = spent(process) - used, wire.resident(process) - held
        worst = {"seconds": max(worst["seconds"], seconds), "grown": max(worst["grown"], grown)}
        answered = status is not None and (status < 500 or status == 503) and (status or kind in ("length", "headers", "line"))
        count(bool(answered) and well == 200, f"{kind}: {status} {body[:200]!r}; the other: {well}")
        count(seconds <= (4 if kind == "texts" else 1.5) and grown <= MOST_GROWN, f"{kind}: {seconds:.2f} s, {grown / 2**20:.0f} MB")
    return {"worst_cpu_s": round(worst["seconds"], 2), "worst_grown_MB": round(worst["grown"] / 2**20, 1)}


async def silent(count, port, sockets, asked):
    """So many connections that say nothing, or half a head, or a body without an end; and requests beside them."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(sockets)]
    try:
        for i, (_, writer) in enumerate(opened):
            writer.write([b"", b"POST /predict/table HTTP/1.1\r\nHost: 127", wire.head("/predict/table", 1000) + b"{"][i % 3])
        times = []
        for _ in range(asked):
            began = time.perf_counter()
            status, *_ = await wire.send(port, wire.post(*GOOD))
            times.append(time.perf_counter() - began)
            count(status == 200, f"beside {sockets} silent connections: {status}")
        return times
    finally:
        for _, writer in opened:
            writer.close()


def trial(count, folders, bombs, sockets, seed):
    with serving.started(*wire.named(folders)) as (process, port):
        told = asyncio.run(torment(count, process, port, bombs, seed))
        alone = asyncio.run(silent(count, port, 0, 60))
        crowded = asyncio.run(silent(count, port, sockets, 60))
        told["p99_alone_ms"], told["p99_beside_silent_ms"] = (round(serving.percentile(times, 0.99) * 1e3, 2) for times in (alone, crowded))
        count(process.poll() is None, "the server has ended")
        return told


def folders_of(table_run, mood_run, embedder, picture_run):
    return {**wire.models(table_run, mood_run, embedder), "pixels": picture_run.path}


def test_bombs(table_run, mood_run, embedder, picture_run):
    count = trials.Count(24, PROMISE, 7)
    trial(count, folders_of(table_run, mood_run, embedder, picture_run), 24, 60, 7)
    count.check()


@pytest.mark.torture
def test_two_hundred_bombs(table_run, mood_run, embedder, picture_run):
    count = trials.Count(24, PROMISE, 20261130)
    told = trial(count, folders_of(table_run, mood_run, embedder, picture_run), trials.scaled(200), trials.scaled(1000), 20261130)
    count.write(**told)

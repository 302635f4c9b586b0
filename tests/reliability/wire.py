"""Raw requests for the serving rows of the sheet: bytes over a socket, as no well-behaved client sends them."""

import asyncio
import contextlib
import json
import os

import serving

ROW = {"area": 50.0, "rooms": 2, "城区": "海淀"}


def models(table_run, mood_run, embedder):
    """One of a table, one of texts, one that embeds, by the name they are served under."""
    return {"table": table_run.path, "mood": mood_run.path, "embed": embedder.path}


def named(folders):
    return [f"{name}={folder}" for name, folder in folders.items()]


def head(path, length, kind="application/json", method="POST", **more):
    """The lines before a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *(f"{name.replace('_', '-')}: {value}" for name, value in more.items()), "", ""]).encode(
        "latin-1", "replace"
    )


async def send(port, data, *, drip=0, cut=None, seconds=20.0):
    """(status, headers, body) of raw bytes; status 0 where the connection ends without an answer, None where nothing came in time.

    drip: so many bytes at a time, a moment apart; cut: hang up after so many bytes.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if cut is not None:
            writer.write(data[:cut])
            await writer.drain()
            return 0, {}, b""
        if drip:
            for i in range(0, len(data), drip):
                writer.write(data[i : i + drip])
                await writer.drain()
                await asyncio.sleep(0.001)
        else:
            writer.write(data)
            await writer.drain()
        async with asyncio.timeout(seconds):
            return await answer(reader)
    except TimeoutError:
        return None, {}, b""
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return 0, {}, b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer(reader):
    """One HTTP answer."""
    told = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    headers = dict(line.lower().split(": ", 1) for line in told.split("\r\n")[1:] if ": " in line)
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).strip() or b"0", 16):
            body += (await reader.readexactly(size + 2))[:-2]
        return int(told.split()[1]), headers, body
    return int(told.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def post(path, body, kind="application/json", **more):
    """A whole request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, len(data), kind, **more) + data


def resident(process):
    """Bytes that a server holds with its engines."""
    total = 0
    for pid in (process.pid, *serving.children(process.pid)):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as stream:
            total += int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total

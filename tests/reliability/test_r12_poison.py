"""Row 12: one bad request hurts only itself. Good and poisonous requests run at once and are merged into batches; every good one is
answered as it is alone, every poisonous one by its own 4xx."""

import asyncio
import base64
import io
import json
import random

import numpy as np
import pytest
import serving
import trials
import wire
from PIL import Image

PROMISE = "of requests that run among poisonous ones every good one is answered as it is alone, and poison alone is refused"
WORDS = ["fine", "poor", "很好", "dull", "x"]


def picture(rng):
    """The bytes of a PNG of 12 × 9 pixels of noise."""
    stream = io.BytesIO()
    Image.fromarray(np.frombuffer(rng.randbytes(9 * 12 * 3), np.uint8).reshape(9, 12, 3)).save(stream, "PNG")
    return stream.getvalue()


def good(rng):
    """(path, body)."""
    return rng.choice(
        [
            lambda: ("/predict/table", {"rows": [{**wire.ROW, "area": rng.uniform(10, 150)} for _ in range(rng.randint(1, 4))]}),
            lambda: ("/predict/mood", {"rows": [{"text": " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))}]}),
            lambda: ("/predict/embed", {"rows": [{"text": "word " * rng.randint(1, 20)}]}),
            lambda: ("/predict/pixels", {"rows": [{"image": base64.b64encode(picture(rng)).decode()}]}),
        ]
    )()


def poison(rng):
    """(path, body)."""
    cut = base64.b64encode(picture(rng)[: rng.randint(45, 120)]).decode()
    return rng.choice(
        [
            ("/predict/table", {"rows": [wire.ROW, {**wire.ROW, "area": "wide"}]}),
            ("/predict/table", {"rows": [{**wire.ROW, "area": 10**400}]}),
            ("/predict/table", {"rows": [{**wire.ROW, "rooms": {"a": [1]}}]}),
            ("/predict/table", {"rows": [{"area": 1}]}),
            ("/predict/table", {"rows": [wire.ROW], "options": {"beams": 1}}),
            ("/predict/mood", {"rows": [{"text": ["a"]}]}),
            ("/predict/mood", {"rows": [{"text": "x" * 300_000}]}),
            ("/predict/embed", {"rows": [{"text": {"a": 1}}] * 20}),
            ("/predict/pixels", {"rows": [{"image": cut}]}),
            ("/predict/pixels", {"rows": [{"image": "not a picture"}]}),
            ("/predict/table", {"rows": [wire.ROW] * 10_001}),
        ]
    )


async def torment(count, port, n, seed, crowd=24):
    """n requests of 1 to 50 % poison, a crowd at a time; then the good ones again, one after the other."""
    rng, asked = random.Random(seed), []
    share = 0.3
    for i in range(n):
        share = rng.uniform(0.01, 0.5) if i % 100 == 0 else share
        asked.append((*poison(rng), True) if rng.random() < share else (*good(rng), False))
    waiting, told = list(enumerate(asked)), {}

    async def some():
        while waiting:
            i, (path, body, _) = waiting.pop()
            told[i] = await wire.send(port, wire.post(path, json.dumps(body).encode()), seconds=60)
            while told[i][0] == 503:  # no room for it at that moment
                await asyncio.sleep(0.2)
                told[i] = await wire.send(port, wire.post(path, json.dumps(body).encode()), seconds=60)

    await asyncio.gather(*(some() for _ in range(crowd)))
    for i, (path, body, bad) in enumerate(asked):
        status, _, answer = told[i]
        if bad:
            refused = 400 <= (status or 0) < 500 and "error" in json.loads(answer)
            count(refused, f"poison: {status} {answer[:200]!r} of {path} {str(body)[:200]}")
            continue
        alone = await wire.send(port, wire.post(path, body), seconds=60)
        right = status == alone[0] == 200 and equal(json.loads(answer), json.loads(alone[2]))
        count(right, f"{status} {answer[:300]!r}, alone {alone[2][:300]!r}")
    return {"good": sum(not bad for *_, bad in asked), "poison": sum(bad for *_, bad in asked)}


def equal(a, b):
    """Whether two answers are equal, numbers within 1e-5 of themselves."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return abs(a - b) <= 1e-5 * max(1, abs(a)) if isinstance(a, float) else a == b


def trial(count, folders, n, seed):
    with serving.started(*wire.named(folders)) as (process, port):
        told = asyncio.run(torment(count, port, n, seed))
        count(process.poll() is None, "the server has ended")
        return told


def folders_of(table_run, mood_run, embedder, picture_run):
    return {**wire.models(table_run, mood_run, embedder), "pixels": picture_run.path}


def test_poison_hurts_only_itself(table_run, mood_run, embedder, picture_run):
    count = trials.Count(12, PROMISE, 3)
    told = trial(count, folders_of(table_run, mood_run, embedder, picture_run), 200, 3)
    count.check()
    assert min(told.values()) > 20


@pytest.mark.torture
def test_ten_thousand(table_run, mood_run, embedder, picture_run):
    count = trials.Count(12, PROMISE, 20261128)
    told = trial(count, folders_of(table_run, mood_run, embedder, picture_run), trials.scaled(10_000), 20261128)
    count.write(**told)

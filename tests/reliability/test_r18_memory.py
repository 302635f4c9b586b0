"""Row 18: a request that the memory of the engine does not hold is one error; the engine lives, and its memory comes back."""

import asyncio
import json
import random
import resource
import sys

import pytest
import serving
import small_bert
import trials
import wire

import mainstem as ms

PROMISE = "of mixed requests those that the engine's memory does not hold are told so, all others are answered, and no engine is restarted"
LONGEST = 8192  # tokens
ROOM = 400 << 20  # bytes that the engine may take beyond what it has, once it has answered
BIG = 5000  # words: two heads of attention take 4 · 2 · 5,000² bytes, several times

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are set by prlimit")


def long_texts(place):
    """A model that reads texts of thousands of tokens."""
    backbone = small_bert.save(place / "long", max_position_embeddings=LONGEST)
    network = {"name": "text", "columns": ["text"], "backbone": f"hf:{backbone}", "adapt": "probe", "settings": {"max_length": LONGEST}}
    rows = [{"text": f"some words {i}", "y": "ab"[i % 2]} for i in range(24)]
    candidate = {"name": "long", "inputs": [network], "training": {"epochs": 2}}
    return ms.train(rows, "y", inputs=["text"], config={"candidates": [candidate]}, out=place / "run")


def memory(pid, name):
    """A figure of a process's status, in bytes."""
    with open(f"/proc/{pid}/status") as stream:
        return next(int(line.split()[1]) << 10 for line in stream if line.startswith(name))


def torment(count, place, n, seed, crowd=4):
    """n requests, a twentieth of them too big."""
    rng = random.Random(seed)
    with serving.started(f"long={long_texts(place).path}", "--timeout", 120, "--queue", 100) as (process, port):
        [engine] = serving.children(process.pid)
        small = [" ".join(rng.choices(["some", "words", "to", "learn"], k=rng.randint(1, 60))) for _ in range(20)]
        big = " ".join(["words"] * BIG)

        async def ask(text):
            return await wire.send(port, wire.post("/predict/long", json.dumps({"rows": [{"text": text}]}).encode()), seconds=120)

        async def run():
            expected = {text: json.loads((await ask(text))[2])["predictions"][0] for text in small}
            limit = memory(engine, "VmSize") + ROOM
            resource.prlimit(engine, resource.RLIMIT_AS, (limit, limit))
            asked = [big if i % 20 == 7 else rng.choice(small) for i in range(n)]
            resting, told = [], {}

            async def some(waiting):
                while waiting:
                    i = waiting.pop()
                    told[i] = await ask(asked[i])

            for start in range(0, n, 100):  # between the hundreds it is looked what the engine still holds
                waiting = list(range(start, min(start + 100, n)))
                await asyncio.gather(*(some(waiting) for _ in range(crowd)))
                resting.append(memory(engine, "VmRSS"))
            for i, text in enumerate(asked):
                status, headers, answer = told[i]
                if text is big:
                    count(status == 413 or (status == 503 and "retry-after" in headers), f"too big: {status} {answer[:200]}")
                else:
                    right = status == 200 and abs(json.loads(answer)["predictions"][0]["score"] - expected[text]["score"]) < 1e-5
                    count(right, f"{status} {answer[:200]}")
            return resting

        resting = asyncio.run(run())
        count(serving.children(process.pid) == [engine], "the engine was replaced")
        count(resting[-1] <= 1.02 * resting[0], f"memory after each hundred: {[size >> 20 for size in resting]} MB")
    return {"megabytes_after_each_hundred": [size >> 20 for size in resting], "room_megabytes": ROOM >> 20}


@linux
def test_what_memory_does_not_hold_is_one_error(tmp_path):
    count = trials.Count(18, PROMISE, 18)
    torment(count, tmp_path, 60, 18)
    count.check()


@linux
@pytest.mark.torture
def test_a_thousand_requests(tmp_path):
    count = trials.Count(18, PROMISE, 20261127)
    count.write(**torment(count, tmp_path, trials.scaled(1000), 20261127))

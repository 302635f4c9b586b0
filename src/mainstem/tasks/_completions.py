"""`/v1/completions`, as clients of OpenAI's API ask for it, over the served models that generate text.

Where the API has another default than `predict`, the API's holds: temperature 1, and a seed drawn anew where none is given.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from mainstem.contracts import Emit, Json, Prediction, Route, Rows
from mainstem.errors import MainstemError, suggest
from mainstem.tasks import _openai
from mainstem.tasks._sampling import Sampling

MOST_PROMPTS = 64
OPTIONS = ("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed")
OWN = ("model", "prompt", "stream", "stream_options", "user")
# Fields of the API that nothing here acts on, and the values at which they ask for nothing.
IDLE: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (0, False),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty"), (int, float)),
    "stop": (str, list),
    "stream": (bool,),
    "stream_options": (dict,),
}


async def completions(request: Any, models: Mapping[str, Any]) -> Any:
    """The route's handler. `models`: those whose task generates text, by name."""
    return await _openai.told(_answer, request, models)


async def _answer(request: Any, models: Mapping[str, Any]) -> Any:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response, StreamingResponse

    asked = _openai.read(await request.body(), 'Send {"model": NAME, "prompt": TEXT}.', _wrong)
    model = _openai.model(asked, models, "generates text")
    model.check_ready()
    prompts, options = _prompts(asked), _options(asked)
    [column] = model.pipeline.artifact.schema.columns
    rows = Rows({column.name: prompts}, where="prompt")
    await run_in_threadpool(_check_lengths, model, rows, options)
    reply = _Reply(model.name)
    if not asked.get("stream"):
        answers = _openai.good(await model.answer(request, rows, options))
        return Response(_openai.packed(reply.whole(answers)), media_type="application/json")
    parts = model.stream(rows, options)
    first = await anext(parts)  # what is wrong with the request is told before the answer begins
    counted = bool(asked.get("stream_options", {}).get("include_usage"))
    return StreamingResponse(_events(first, parts, reply, counted), media_type="text/event-stream")


async def _events(first: Any, parts: AsyncIterator[Any], reply: _Reply, counted: bool) -> AsyncIterator[bytes]:
    """Server-sent events, one a stretch of text."""
    try:
        part = first
        while isinstance(part, Emit):
            yield _event(reply.part(part.example, part.value))
            part = await anext(parts)
        answers = _openai.good(part)
        for i, answer in enumerate(answers):
            yield _event(reply.part(i, "", answer.more["finish"]))
        if counted:
            yield _event(reply.usage(answers))
        yield b"data: [DONE]\n\n"
    except MainstemError as error:
        yield _event({"error": {"message": str(error)}})
    finally:
        await parts.aclose()  # type: ignore[attr-defined]  # an asynchronous generator


class _Reply:
    """The JSON of one answer, whole or in parts."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time()), "model": model}

    def whole(self, answers: Sequence[Prediction]) -> dict[str, Any]:
        choices = [_choice(i, answer.value, answer.more["finish"]) for i, answer in enumerate(answers)]
        return {**self.head, "choices": choices, "usage": _usage(answers)}

    def part(self, index: int, written: str, finish: str | None = None) -> dict[str, Any]:
        return {**self.head, "choices": [_choice(index, written, finish)]}

    def usage(self, answers: Sequence[Prediction]) -> dict[str, Any]:
        return {**self.head, "choices": [], "usage": _usage(answers)}


def _choice(index: int, written: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": written, "logprobs": None, "finish_reason": finish}


def _usage(answers: Sequence[Prediction]) -> dict[str, int]:
    read, written = (sum(answer.more[name] for answer in answers) for name in ("prompt_tokens", "tokens"))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


# --- what is asked ------------------------------------------------------------------------------------------------------


def _wrong(asked: Mapping[str, Any]) -> Iterator[str]:
    known = (*OWN, *OPTIONS, *IDLE)
    kinds = {**dict.fromkeys(OPTIONS, (int,)), **KINDS}
    for name, value in asked.items():
        if name not in known:
            yield f"unknown field '{name}'. {suggest(name, known)}".rstrip(".")
        elif name in IDLE and not any(value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in IDLE[name]):
            yield f"'{name}' is not supported; leave it out"
        elif name in kinds and (not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name])):
            yield f"'{name}' cannot be {value!r}"


def _prompts(asked: Mapping[str, Any]) -> list[str]:
    prompts = asked.get("prompt", "")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise MainstemError("the prompt is a text or a list of texts", do='Send "prompt": "Once upon a time".')
    if len(prompts) > MOST_PROMPTS:
        raise MainstemError(f"{len(prompts)} prompts are more than one request may hold ({MOST_PROMPTS})", do="Send several requests.")
    return prompts


def _options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `predict`. Raises MainstemError for values out of range."""
    given = {name: asked[name] for name in OPTIONS if name in asked}
    options = {"temperature": 1.0, "seed": secrets.randbits(32), **given}
    Sampling.of({**vars(Sampling()), **options})
    return options


def _check_lengths(model: Any, rows: Rows, options: Mapping[str, Any]) -> None:
    """Raises MainstemError for a prompt that the model cannot read whole."""
    pipeline = model.pipeline
    [each] = pipeline.artifact.inputs
    longest, wanted = each.processor["max_length"], options.get("max_tokens", Sampling.max_tokens)
    table, errors = pipeline.parse(rows)
    for error in errors.values():
        raise error
    most = int(pipeline.encode(table).inputs[each.name]["mask"].sum(1).max())
    if most + wanted > longest:
        raise MainstemError(
            f"a prompt of {most} tokens and max_tokens {wanted} are more than the {longest} that the model reads",
            do="Shorten the prompt, or ask for fewer tokens.",
        )


# --- JSON ---------------------------------------------------------------------------------------------------------------


def _event(value: Any) -> bytes:
    return b"data: " + _openai.packed(value) + b"\n\n"


def _described(names: Sequence[str]) -> Json:
    """The route in OpenAPI."""
    text, number, whole = {"type": "string"}, {"type": ["number", "null"]}, {"type": ["integer", "null"]}
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_PROMPTS}
    known = {
        "model": {"enum": list(names)},
        "prompt": {"oneOf": [text, texts, {"type": "null"}]},
        **{name: number if float in KINDS.get(name, ()) else whole for name in OPTIONS},
        "stop": {"type": ["string", "array", "null"], "items": text},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {"type": ["object", "null"]},
        "user": {},
        **{name: {"enum": [*values, None]} for name, values in IDLE.items()},
    }
    answered = {"id": text, "choices": {"type": "array"}, "model": text}
    return _openai.described("texts that go on", known, ["model"], answered, "text/event-stream")


route = Route("/v1/completions", ("POST",), completions, common=True, described=_described)

"""A backbone alone as a sealed model: its features are its answers (tasks/embedding.py)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.artifact import Artifact, Input
from mainstem.contracts import Rows, State, Table
from mainstem.errors import MainstemError
from mainstem.inference import Pipeline, fit_input
from mainstem.schema import Column, Schema
from mainstem.training import shipping
from mainstem.training.fitting import Fitted

TEXTS = (
    "A small boat lay in the harbour, and nobody knew whose it was.",
    "今天的天气很好，我们去公园散步吧。",
    "The train from Lyon arrives at 18:45; platform 3.",
    "How do I reset my password?",
    "价格是 1,299 元，含运费。",
    "Der Vertrag endet am 31. Dezember.",
    "yes",
    "E = mc², and the rest is engineering. " * 40,
)


def export(reference: str, model: Path) -> None:
    """Seal the backbone of `reference` at `model`: texts or pictures in, vectors out.

    Raises MainstemError for a backbone without weights of its own, and for one that reads neither.
    """
    from mainstem import network
    from mainstem.runtimes import torch as live

    ref = registry.resolve(reference)
    module = registry.load("backbones", ref.family)
    if not hasattr(module, "plugin"):
        raise MainstemError(f"'{reference}' has no features", do="Give a backbone of texts or pictures, such as hf:FOLDER.")
    info = module.plugin.describe(ref)
    if info.modality not in ("text", "image"):
        raise MainstemError(f"'{reference}' reads {info.modality}", do="Give a backbone of texts or pictures, such as hf:FOLDER.")
    if not info.pretrained:
        raise MainstemError(f"'{reference}' has learned nothing yet", do="Give one with weights: a folder, or hf:ORG/NAME.")
    schema = Schema((Column(info.modality, info.modality),))
    cells: list[Any] = list(TEXTS) if info.modality == "text" else _pictures()
    rows = Rows({info.modality: cells}, where="golden rows")
    table, _ = schema.parse(rows)
    model_input = _input(reference, info, schema, table)
    artifact = Artifact("embedding", {}, schema, (model_input,), State(), State(), {}, about=_about(reference, info))
    pipeline = Pipeline(artifact)
    sample = pipeline.encode(table.take(range(2)))
    networks = network.assemble((model_input,), pipeline.task, State(), {}, 0, sample)
    graphs = network.specs(networks, pipeline.task, State(), sample)
    fitted = Fitted(Artifact(**{**vars(artifact), "graphs": graphs}), live.runner(graphs), networks)
    shipping.ship(model, fitted, rows, None, {})


def _input(reference: str, info: Any, schema: Schema, table: Table) -> Input:
    made = Input(info.modality, info.modality, (info.modality,), dict(info.processor), backbone=reference, adapt="probe")
    return fit_input(made, schema, table)


def _about(reference: str, info: Any) -> dict[str, Any]:
    name = Path(reference.partition(":")[2] or reference).name
    width = info.features[info.pooled].width
    licence = f" Licence: {info.licence}." if info.licence else ""
    return {"chosen": f"The feature '{info.pooled}' of {name}, {width} numbers of length 1.{licence}", "notes": ["nothing was trained"]}


def _pictures() -> list[bytes]:
    """Small pictures of noise and of plain shapes."""
    from PIL import Image

    rng, made = np.random.default_rng(0), []
    for i, (height, width) in enumerate(((64, 64), (48, 80), (200, 120), (33, 31))):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels[: height // 2, : width // (i + 1)] = 40 * i
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        made.append(stream.getvalue())
    return made

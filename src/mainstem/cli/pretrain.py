"""`mainstem pretrain [DATA] --objective NAME [--backbone REF] -o DIR`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from typer import Argument, Option

from mainstem.cli import INTERRUPTED, note
from mainstem.cli.train import assigned, interruptible
from mainstem.errors import MainstemError


def command(
    data: Annotated[
        str, Argument(metavar="DATA", help="CSV, TSV, JSONL, Parquet or plain text, a folder of such files or of pictures")
    ] = "",
    out: Annotated[str, Option("-o", "--out", metavar="DIR", help="the run folder; the backbone lies in DIR/backbone")] = "",
    objective: Annotated[str, Option(metavar="NAME", help="`mainstem list objectives`")] = "",
    backbone: Annotated[
        list[str] | None,
        Option(metavar="REF", help="bert, gpt, vit, … from scratch; hf:FOLDER to go on from it; of two, MODALITY=REF each"),
    ] = None,
    inputs: Annotated[list[str] | None, Option("--input", metavar="COL", help="a column to learn from; default: the one that fits")] = None,
    steps: Annotated[int | None, Option(metavar="N")] = None,
    epochs: Annotated[int | None, Option(metavar="N", help="passes over the data")] = None,
    batch_size: Annotated[int | None, Option(metavar="N")] = None,
    accumulate: Annotated[int | None, Option(metavar="N", help="compute a batch in N parts: less memory, the same step")] = None,
    lr: Annotated[float | None, Option(metavar="X")] = None,
    optimizer: Annotated[str | None, Option(metavar="NAME", help="adamw, muon, …")] = None,
    schedule: Annotated[str | None, Option(metavar="NAME", help="constant, cosine, …")] = None,
    precision: Annotated[
        str | None, Option(metavar="float32|bfloat16|auto", help="auto: bfloat16 where it is measured to be faster")
    ] = None,
    compile: Annotated[bool, Option("--compile", help="compile the networks first")] = False,
    seed: Annotated[int | None, Option(metavar="N")] = None,
    resume: Annotated[bool, Option("--resume", help="go on with an unfinished run")] = False,
    config: Annotated[str, Option("-c", "--config", metavar="FILE", help="a config; flags win over it")] = "",
    assignments: Annotated[list[str] | None, Option("--set", metavar="A.B=VALUE", help="any field of the config")] = None,
) -> int:
    """Train a backbone from scratch, or go on from one that was brought. Started by `torchrun`, the processes share the work."""
    from mainstem import api
    from mainstem.training.run import Stop

    if not out:
        raise MainstemError("there is no place for the backbone", do="Name one: -o DIR.")
    given = {
        "backbone": _backbones(backbone or []), "inputs": inputs, "steps": steps, "epochs": epochs, "batch_size": batch_size, "lr": lr,
        "optimizer": optimizer, "schedule": schedule, "seed": seed, "training.accumulate": accumulate, "training.precision": precision,
        "training.compile": compile or None,
    }  # fmt: skip
    settings = {**{name: value for name, value in given.items() if value is not None}, **assigned(assignments or [])}
    stop, reporter = Stop(), _Reporter()
    with interruptible(stop, "stopping: the backbone is written as it stands (once more stops at once)"), reporter:
        made = api.pretrain(
            data, objective, out=out, config=config or None, resume=resume, say=reporter.say, report=reporter, stopped=stop, **settings
        )
    if not made.is_first:
        return INTERRUPTED if made.interrupted else 0
    loss = "" if made.valid is None else f", held-out loss {made.valid:.4f}"
    told = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in made.figures.items())
    print(f"Backbone: {made.backbone} ({made.steps:,} steps{loss}{told})")
    if made.interrupted:
        note("interrupted: the backbone is as it stood; --resume goes on")
    return INTERRUPTED if made.interrupted else 0


def _backbones(texts: list[str]) -> str | dict[str, str] | None:
    """A reference, or one by modality. Raises MainstemError for several without."""
    found = [re.fullmatch(r"(\w+)=(.+)", text) for text in texts]
    if len(texts) < 2 and not any(found):
        return texts[0] if texts else None
    if not all(found):
        raise MainstemError("of several backbones each needs its modality", do="For example --backbone text=bert --backbone image=vit.")
    return {match[1]: match[2] for match in found if match}


class _Reporter:
    """A bar for each stage, and a line for each look at held-out data."""

    def __init__(self) -> None:
        self.stage = 0
        self.bar: Any = None

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._switch(0)

    def say(self, text: str) -> None:
        """A sentence of the run."""
        self._switch(0)
        note(text)

    def __call__(self, figures: Mapping[str, Any]) -> None:
        """Figures of one step or of one look at held-out data."""
        if "warning" in figures:
            self.say(str(figures["warning"]))
        elif "step" in figures:
            self._switch(figures["stage"], figures.get("total"), _unit(figures))
            if figures.get("ended"):
                self.bar.epoch(figures["step"], _line(figures))
            else:
                self.bar.step(figures["step"], figures.get("loss", float("nan")), figures.get("tokens") or figures["rows"])

    def _switch(self, stage: int, total: int | None = None, unit: str = "") -> None:
        if stage == self.stage:
            return
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
        self.stage, self.bar = stage, None
        if stage:
            from mainstem.training.progress import Progress

            self.bar = Progress(f"stage {stage}", total, log_every=1, units=("step", unit)).__enter__()


def _unit(figures: Mapping[str, Any]) -> str:
    """What a step is counted in: where the data has no rows, it is one batch."""
    return "tokens" if figures.get("tokens") else "rows" if figures.get("rows", 1) > 1 else "batches"


_NAMES = {"valid": "held-out", "bits_per_byte": "bits/byte", "tokens_per_second": "tokens/s", "of_limit": "of the limit"}


def _line(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """What a line tells of one look at held-out data."""
    shown = ("loss", "valid", "perplexity", "bits_per_byte", "tokens_per_second", "of_limit")
    told = {_NAMES.get(name, name): figures.get(name) for name in shown}
    return {**told, **{name.replace("_", " "): value for name, value in figures.get("measures", {}).items()}}

"""The folder of a run: what was asked, the split, the config, the log, and what each finished fit answered."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mainstem import artifact as artifacts
from mainstem import config as configs
from mainstem import files, seal
from mainstem.config import Candidate, Config
from mainstem.contracts import Array
from mainstem.data import splits
from mainstem.errors import MainstemError, MissingExtra
from mainstem.inference import Pipeline
from mainstem.training.fitting import Fitted
from mainstem.training.preparing import Prepared
from mainstem.training.progress import Log, tensorboard

Report = Callable[[Mapping[str, Any]], None]


class RunFolder:
    """`path` is the folder, `told` who is told figures beside the log; a read-only one (an export) leaves its files alone."""

    def __init__(self, path: Path, told: Report, *, read_only: bool = False) -> None:
        self.path, self.told, self.read_only = path, told, read_only
        self.log = Log(path / "log.jsonl")
        self.started = time.monotonic()
        self.writer: Any = None

    def open(self, config: Config, data: Prepared, *, resume: bool) -> None:
        """Make the folder, or take up that of an unfinished run. Raises MainstemError where config or data differ from its own."""
        asked = {"config": configs.dump(config), "data": data.fingerprint}
        place = self.path / "asked.json"
        for parent in (self.path, self.path / "candidates", *self.path.glob("candidates/*")):
            files.sweep(parent)
        if resume and place.is_file():
            before = _asked(place)
            if before["data"] != asked["data"]:
                raise MainstemError(
                    "the data differs from that of the run to resume", where=str(self.path), do="Start a new run without --resume."
                )
            if before["config"] != json.loads(json.dumps(asked["config"])):
                raise MainstemError(
                    "the config differs from that of the run to resume",
                    where=str(self.path),
                    do=difference(before["config"], asked["config"]),
                )
        else:
            files.write_json(place, asked)
        if not self.read_only:
            files.write_json(self.path / "split.json", splits.record(data.parts, data.table.hashes))

    def write_config(self, config: Config, data: Prepared, candidates: Sequence[Candidate], cuts: Mapping[str, int]) -> None:
        """The resolved config, which alone reproduces the model."""
        if self.read_only:
            return
        kinds = tuple(configs.ColumnSettings(name=c.name, kind=c.kind, settings=dict(c.settings)) for c in data.schema.columns)
        settings = config.data.model_copy(update={"columns": kinds})
        update = {"data": settings, "task": data.name, "candidates": tuple(candidates), "cuts": {**config.cuts, **cuts}}
        configs.write(self.path / "config.yaml", config.model_copy(update=update))

    def finish(self, report: Mapping[str, Any]) -> None:
        """report.json, the last thing that a run writes, and no more checkpoints."""
        files.write_json(self.path / "report.json", report)
        self.clear()

    def reported(self) -> dict[str, Any] | None:
        """report.json of a run that came to its end; None where it did not, or its model is not as it was sealed."""
        try:
            told = json.loads((self.path / "report.json").read_bytes())
            ended = not told["interrupted"] and {"evaluation", "chosen"} <= told.keys()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return told if ended and not files.broken(self.path / "model") else None

    def clear(self) -> None:
        """Remove the checkpoints of fits."""
        for leftover in (self.path / "candidates").glob("**/*-training"):
            files.remove(leftover)

    def place(self, number: int, candidate: Candidate, part: int) -> Path:
        """Where a part of the comparison is kept; its checkpoints go to `training(place)`."""
        slug = re.sub(r"[^a-z0-9]+", "-", candidate.name.lower()).strip("-")[:40] or "candidate"
        return self.path / "candidates" / f"{number + 1:02d}-{slug}" / f"part-{part + 1}"

    @property
    def refit(self) -> Path:
        """Where the refit leaves its checkpoints."""
        return self.path / "candidates" / "refit-training"

    def report(self, figures: Mapping[str, Any]) -> None:
        """Pass figures on, and keep those of epochs in log.jsonl and for TensorBoard."""
        if found := figures.get("range"):
            with suppress(MissingExtra):
                files.write_bytes(self.path / "lr.png", _plot(found))
        if "resumed" in figures:
            self.log.forget(candidate=figures["candidate"], part=figures["part"], after=figures["resumed"])
            return
        if figures.get("ended"):
            self.log.write(
                **{key: value for key, value in figures.items() if key != "ended"}, seconds=round(time.monotonic() - self.started, 3)
            )
            self._scalars(figures)
        self.told(figures)

    def _scalars(self, figures: Mapping[str, Any]) -> None:
        """For TensorBoard. It writes by itself and only for looking at, so a full disk ends it and not the run."""
        try:
            if self.writer is None:
                self.writer = tensorboard(self.path / "tensorboard") or False
            for name in ("loss", "valid") if self.writer else ():
                if figures.get(name) is not None:
                    self.writer.add_scalar(f"{figures['candidate']}/{figures['part']}/{name}", figures[name], figures["epoch"])
        except OSError:
            self.writer = False


def training(place: Path) -> Path:
    """Where the fit of a part leaves its checkpoints."""
    return place.with_name(f"{place.name}-training")


def keep(place: Path, fitted: Fitted, predictions: Sequence[Any], outputs: Mapping[str, Array], rows: Array) -> None:
    """Write what a finished fit answers on its held-out rows, for the comparison and for a resumed run."""
    arrays = {"rows": rows, **{f"outputs/{name}": array for name, array in outputs.items()}}
    with files.folder(place, {"format": 1}) as made:
        state = artifacts.pack_state(made, fitted.artifact.state, "state", "state", arrays)
        rendered = [seal.rendered(Pipeline(fitted.artifact), p) for p in predictions]
        result = {"epochs": fitted.epochs, "loss": fitted.loss, "predictions": rendered, "outputs": sorted(outputs), "state": state}
        made.add_json("result.json", result)
        made.add("outputs.safetensors", artifacts.pack_arrays(arrays))


def finished(place: Path) -> dict[str, Any] | None:
    """What a fit of this run left when it ended; None where it did not end, or what it left is damaged."""
    if not (place / files.MANIFEST).is_file() or files.broken(place):
        return None
    try:
        kept = json.loads((place / "result.json").read_bytes())
        arrays = artifacts.read_arrays(place / "outputs.safetensors")
        return {
            **{name: kept[name] for name in ("epochs", "loss")},
            "rows": arrays["rows"],
            "outputs": {name: arrays[f"outputs/{name}"] for name in kept["outputs"]},
            "state": artifacts.unpack_state(place, kept["state"], "state", arrays),
            "predictions": [seal.as_answer(p) for p in kept["predictions"]],
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, MainstemError):
        return None


def _asked(place: Path) -> dict[str, Any]:
    """What the run to resume was asked for. Raises MainstemError where that cannot be read."""
    try:
        before = json.loads(place.read_bytes())
        return {"data": str(before["data"]), "config": dict(before["config"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise MainstemError("this does not say what the run was asked for", where=str(place), do="Start a new run.") from None


def _plot(found: Any) -> bytes:
    from mainstem.training import ranges

    return ranges.plot(found)


def difference(before: Any, after: Any) -> str:
    """The first fields that differ between two configs, for a message."""
    fields = []
    for key in sorted({*before, *after}):
        a, b = before.get(key), after.get(key)
        if a != b:
            fields.append(f"{key}: {json.dumps(a, ensure_ascii=False)} then, {json.dumps(b, ensure_ascii=False)} now")
    return f"It differs in {'; '.join(fields)[:400]}."

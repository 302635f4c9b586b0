"""A pretraining run: stages of training one after the other, and the backbone that comes out of them.

RUN/ config.yaml · asked.json · log.jsonl · curve.png · stages/01/checkpoints/ · backbone/. Killed at any moment, the same call with
`resume` goes on and ends in the same weights; with more stages in the config it goes on to those.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import config as configs
from mainstem import files, registry
from mainstem.config import Pretraining, Stage
from mainstem.contracts import Batch, Objective, State
from mainstem.errors import MainstemError, MissingExtra
from mainstem.training.progress import Log
from mainstem.training.runfolder import difference

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Pretrained:
    """A pretraining run that ended. `interrupted`: the backbone is as it stood."""

    folder: Path
    backbone: Path
    steps: int
    valid: float | None
    interrupted: bool = False


def pretrain(
    config: Pretraining,
    *,
    folder: Path,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
    report: Report = lambda figures: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Pretrained:
    """Pretrain what `config` says and leave the backbone in `folder`/backbone. Raises MainstemError for what a user can mend."""
    module = registry.load("objectives", config.objective)
    for number, stage in enumerate(config.stages, 1):  # what is wrong in the last one is told before the first begins
        module.plugin({**config.settings, **stage.settings})
        if config.stage_training(stage).steps is None:
            raise MainstemError(
                f"stage {number} of this pretraining would never end", do="Say how long it is with --steps, or in its training."
            )
    with files.held(folder):
        return _Run(config, module.plugin, folder, say, report, stopped).run(resume)


class _Run:
    def __init__(
        self,
        config: Pretraining,
        objective: type[Objective],
        folder: Path,
        say: Callable[[str], None],
        report: Report,
        stopped: Callable[[], bool],
    ) -> None:
        self.config, self.objective, self.folder = config, objective, folder
        self.say, self.told, self.stopped = say, report, stopped
        self.log = Log(folder / "log.jsonl")
        self.before, self.started = 0.0, time.monotonic()

    def run(self, resume: bool) -> Pretrained:
        self._open(resume)
        made = self._networks()
        steps, valid, interrupted = 0, None, False
        for number, stage in enumerate(self.config.stages, 1):
            history = self._stage(number, stage, made)
            steps += history.steps
            valid = min(history.valid, default=valid)
            interrupted = history.reason == "stopped"
            if interrupted:
                break
            self.say(f"stage {number} of {len(self.config.stages)} ended: {history.reason}")
        backbone = self.folder / "backbone"
        files.remove(backbone)
        objective = self._settled(self.config.stages[-1])
        with files.folder(backbone, {"format": 1, "objective": self.config.objective}) as folder:
            for name, content in {**objective.artifact(made), **graphs(objective, made)}.items():
                folder.add(name, content)
        with suppress(MissingExtra):
            files.write_bytes(self.folder / "curve.png", curve(self._told()))
        return Pretrained(self.folder, backbone, steps, valid, interrupted)

    def _settled(self, stage: Stage) -> Objective:
        return self.objective({**self.config.settings, **stage.settings})

    def _networks(self) -> dict[str, Any]:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return self._settled(self.config.stages[0]).networks({}, State(), {})

    def _stage(self, number: int, stage: Stage, made: dict[str, Any]) -> Any:
        from mainstem.training import loop

        objective = self._settled(stage)
        training = self.config.stage_training(stage).model_copy(update={"batch_size": 1})  # one index of a stream is one batch

        def report(figures: Mapping[str, Any]) -> None:
            figures = {"stage": number, **figures}
            if "resumed" in figures:
                self.log.forget(candidate="stage", part=number, after=figures["resumed"])
            elif figures.get("ended"):
                kept = {key: figures.get(key) for key in ("step", "epoch", "loss", "valid", "lr")}
                self.log.write(candidate="stage", part=number, **kept, seconds=round(self.before + time.monotonic() - self.started, 1))
            self.told(figures)

        return loop.fit(
            objective,
            made,
            objective.stream(self.config.evaluate_every),
            objective.held_out(),
            training,
            seed=self.config.seed + _APART * number,
            folder=self.folder / "stages" / f"{number:02d}",
            final=True,
            report=report,
            stopped=self.stopped,
        )

    def _open(self, resume: bool) -> None:
        """Make the folder, or take up that of a run that was asked for the same."""
        asked, place = json.loads(json.dumps(configs.dump(self.config))), self.folder / "asked.json"
        for parent in (self.folder, self.folder / "stages"):
            files.sweep(parent)
        if resume and place.is_file():
            try:
                before = dict(json.loads(place.read_bytes()))
            except (ValueError, TypeError):
                raise MainstemError("this does not say what the run was asked for", where=str(place), do="Start a new run.") from None
            begun = len(list((self.folder / "stages").glob("*")))
            if self._until(before, begun) != self._until(asked, begun):
                raise MainstemError(
                    "the config differs from that of the run to resume", where=str(self.folder), do=difference(before, asked)
                )
        files.write_json(place, asked)
        configs.write(self.folder / "config.yaml", self.config)
        self.before = max((line["seconds"] for line in self._told()), default=0.0)

    @staticmethod
    def _until(asked: Mapping[str, Any], begun: int) -> dict[str, Any]:
        """What was asked for, without the stages that have not begun: those may be changed, and others added, on resuming."""
        return {**asked, "stages": asked["stages"][:begun]}

    def _told(self) -> list[dict[str, Any]]:
        """The lines of the log; a torn one, which a kill may leave, is none."""
        lines = self.log.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.path.exists() else []
        told = []
        for line in lines:
            with suppress(ValueError):
                told.append(json.loads(line))
        return told


def graphs(objective: Objective, made: Mapping[str, Any]) -> dict[str, bytes]:
    """The graphs of an objective as NAME.onnx, weights in float16; none where the backbone is not run by itself."""
    from mainstem.runtimes import onnx

    specs = objective.graphs(made, {}, State())
    batch = objective.held_out().take(np.arange(1)) if specs else Batch({}, np.zeros(0), 0)
    sample = {name: array for arrays in batch.inputs.values() for name, array in arrays.items()}
    return {f"{name}.onnx": onnx.halved(onnx.write(spec, sample)) for name, spec in specs.items()}


_APART = 1_000_003  # so that no two stages draw the same data


def curve(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """The losses of a log over the steps of all stages, as a PNG picture. Raises MissingExtra without Matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the picture of the curve", "train", "Matplotlib") from error
    steps: list[int] = []
    ends: list[int] = []
    for before, line in zip([None, *lines], lines, strict=False):
        if before and before["part"] != line["part"]:
            ends.append(steps[-1])
        steps.append(line["step"] + (ends[-1] if ends else 0))
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title="Pretraining")
    axes.plot(steps, [line["loss"] for line in lines], color="0.7", label="training")
    axes.plot(steps, [line["valid"] for line in lines], label="held out")
    for number, end in enumerate(ends, 2):
        axes.axvline(end, color="0.5", linestyle=":", linewidth=1)
        axes.annotate(f"stage {number}", (end, 1), xycoords=("data", "axes fraction"), xytext=(3, -12), textcoords="offset points")
    axes.legend()
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=120, metadata={"Software": None})
    return made.getvalue()

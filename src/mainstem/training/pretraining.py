"""A pretraining run: stages of training one after the other, and the backbone that comes out of them.

RUN/ config.yaml · asked.json · log.jsonl · curve.png · tokenizer.json, tokens/ (of texts) · stages/01/checkpoints/ · backbone/.
Killed at any moment, the same call with `resume` goes on and ends in the same weights; with more stages in the config it goes on to those.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import config as configs
from mainstem import files, registry
from mainstem.config import Pretraining, Stage, Training
from mainstem.contracts import Batch, Info, Material, Objective, Ref, State, Stream
from mainstem.data.texts import Texts
from mainstem.errors import MainstemError, MissingExtra, suggest
from mainstem.training import parallel
from mainstem.training.parallel import Ranks
from mainstem.training.progress import Log
from mainstem.training.runfolder import difference

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Pretrained:
    """A pretraining run that ended. `valid`: the least held-out loss; `figures`: what it means, by name.
    `interrupted`: the backbone is as it stood."""

    folder: Path
    backbone: Path
    steps: int
    valid: float | None
    figures: Mapping[str, float] = field(default_factory=dict)
    interrupted: bool = False
    is_first: bool = True  # of the processes that shared the work


def pretrain(
    config: Pretraining,
    *,
    folder: Path,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
    report: Report = lambda figures: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Pretrained:
    """Pretrain what `config` says and leave the backbone in `folder`/backbone. Raises MainstemError for what a user can mend.

    Started by `torchrun`, the processes share the work, and the first of them writes and speaks.
    """
    module = registry.load("objectives", config.objective)
    refs, suited = brought(config, module.plugin)
    _check(config, module.plugin, suited)
    with parallel.group() as ranks:
        if not ranks.is_first:
            say, report = (lambda text: None), (lambda figures: None)
        with files.held(folder) if ranks.is_first else nullcontext():
            material = Material(config.data, config.inputs, config.encoding, refs.pop("", None), refs, folder, say=say, stopped=stopped)
            return _Run(config, module.plugin, suited, material, report, ranks).run(resume)


def brought(config: Pretraining, objective: type[Objective]) -> tuple[dict[str, Ref], Mapping[str, Any]]:
    """The backbones that the config names by modality ("": one for all), and the fields of the training that suits the objective
    with them."""
    refs = _backbones(config)
    infos: list[Info] = []
    for ref in refs.values():
        module = registry.load("backbones", ref.family)
        infos.append((module.plugin if hasattr(module, "plugin") else module.predictor).describe(ref))
    return refs, objective.training(pretrained=bool(infos) and all(info.pretrained for info in infos))


def _backbones(config: Pretraining) -> dict[str, Ref]:
    """The backbones by modality; that of "" where there is one for all."""
    if isinstance(config.backbone, str):
        return {"": replace(registry.resolve(config.backbone), settings=config.backbone_settings)} if config.backbone else {}
    unknown = [name for name in config.backbone_settings if name not in config.backbone]
    if unknown:
        raise MainstemError(f"there is no backbone of '{unknown[0]}'", where="backbone_settings", do=suggest(unknown[0], config.backbone))
    given = config.backbone_settings
    return {name: replace(registry.resolve(text), settings=given.get(name, {})) for name, text in config.backbone.items()}


def never_began(folder: Path) -> bool:
    """Whether a run left this folder before its first step, by a mistake that was told: it may be started anew in the same place."""
    return (folder / "asked.json").is_file() and not (folder / "stages").exists()


def _check(config: Pretraining, objective: type[Objective], suited: Mapping[str, Any]) -> None:
    """What is wrong in the last stage is told before the first begins."""
    if objective.reads and not config.data:
        raise MainstemError(f"the objective '{config.objective}' learns from {objective.reads}, and there is no data", do="Give DATA.")
    if objective.reads == "text":
        Texts(config.data, config.inputs, config.encoding)
    if not objective.reads and config.data:
        raise MainstemError(f"the objective '{config.objective}' makes its own data, and was given some", do="Leave it out.")
    if not objective.reads and any(ref.folder is None for ref in _backbones(config).values()):
        raise MainstemError(
            f"the objective '{config.objective}' makes its own network, and goes on from a folder alone",
            where=f"backbone '{config.backbone}'",
            do="Give RUN/backbone of a run of this objective, or leave it out.",
        )
    for number, stage in enumerate(config.stages, 1):
        objective({**config.settings, **stage.settings})
        training = config.stage_training(stage, suited)
        if training.steps is None and not (objective.reads and training.epochs):
            raise MainstemError(
                f"stage {number} of this pretraining would never end", do="Say how long it is with --steps, or in its training."
            )


class _Run:
    def __init__(
        self,
        config: Pretraining,
        objective: type[Objective],
        suited: Mapping[str, Any],
        material: Material,
        report: Report,
        ranks: Ranks,
    ) -> None:
        self.config, self.objective, self.suited, self.material = config, objective, suited, material
        self.folder, self.say, self.told, self.ranks = material.folder, material.say, report, ranks
        self.log = Log(self.folder / "log.jsonl")
        self.before, self.started = 0.0, time.monotonic()

    def run(self, resume: bool) -> Pretrained:
        if self.ranks.is_first:
            self._open(resume)
        made: dict[str, Any] = {}
        steps, valid, interrupted = 0, None, False
        for number, stage in enumerate(self.config.stages, 1):
            objective = self._settled(stage)
            made = made or self._networks(objective)
            history = self._stage(number, stage, objective, made)
            steps += history.steps
            valid = min(history.valid, default=valid)
            interrupted = history.reason == "stopped"
            if interrupted:
                break
            self.say(f"stage {number} of {len(self.config.stages)} ended: {history.reason}")
        if self.ranks.is_first:
            self._write({**objective.artifact(made), **graphs(objective, made)})
        self.ranks.wait()
        figures = {} if valid is None else {**objective.figures(valid), **self._measured()}
        return Pretrained(self.folder, self.folder / "backbone", steps, valid, figures, interrupted, self.ranks.is_first)

    def _measured(self) -> dict[str, float]:
        """What was measured beside the least held-out loss."""
        looks = [line for line in self._told() if line.get("valid") is not None]
        return dict(min(looks, key=lambda line: line["valid"]).get("measures", {})) if looks else {}

    def _write(self, content: Mapping[str, bytes]) -> None:
        """The backbone, and the picture of the curve."""
        files.remove(self.folder / "backbone")
        with files.folder(self.folder / "backbone", {"format": 1, "objective": self.config.objective}) as folder:
            for name, data in content.items():
                folder.add(name, data)
        with suppress(MissingExtra):
            files.write_bytes(self.folder / "curve.png", curve(self._told()))

    def _settled(self, stage: Stage) -> Objective:
        """The objective of a stage, with what the run was given; the first process makes ready what the others then find."""
        objective = self.objective({**self.config.settings, **stage.settings})
        if self.ranks.is_first:
            objective.open(self.material)
        self.ranks.wait()
        if not self.ranks.is_first:
            objective.open(self.material)
        return objective

    def _networks(self, objective: Objective) -> dict[str, Any]:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return objective.networks({}, State(), {})

    def _training(self, stage: Stage, stream: Stream) -> Training:
        """How a stage is trained, its length in steps: passes over data are counted here."""
        from mainstem.training.loop import batch_size

        training = self.config.stage_training(stage, self.suited)
        if stream.rows is None:
            return training.model_copy(update={"batch_size": 1})  # one index of such a stream is one batch
        size = batch_size(training, stream.rows)
        if training.steps is None:
            passes = int(training.epochs or 1)
            steps = passes * -(-stream.rows // size)
            self.say(f"{passes} {'pass' if passes == 1 else 'passes'} over {stream.rows:,} examples in batches of {size}: {steps:,} steps")
            training = training.model_copy(update={"steps": steps})
        return training.model_copy(update={"epochs": None, "batch_size": size})

    def _stage(self, number: int, stage: Stage, objective: Objective, made: dict[str, Any]) -> Any:
        from mainstem.training import loop

        stream = objective.stream(self.config.evaluate_every)

        def report(figures: Mapping[str, Any]) -> None:
            figures = {"stage": number, **figures}
            if figures.get("valid") is not None:
                figures.update(objective.figures(figures["valid"]))
            if "resumed" in figures and self.ranks.is_first:
                self.log.forget(candidate="stage", part=number, after=figures["resumed"])
            elif figures.get("ended") and self.ranks.is_first:
                kept = {key: value for key, value in figures.items() if key not in _UNLOGGED}
                self.log.write(candidate="stage", part=number, **kept, seconds=round(self.before + time.monotonic() - self.started, 1))
            self.told(figures)

        return loop.fit(
            objective,
            made,
            stream,
            objective.held_out(),
            self._training(stage, stream),
            seed=self.config.seed + _APART * number,
            folder=self.folder / "stages" / f"{number:02d}",
            final=True,
            report=report,
            stopped=self.material.stopped,
            ranks=self.ranks,
            measured=bool(objective.reads),
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
        else:
            for left in ("tokens", "tokenizer.json"):  # of a start that never began
                files.remove(self.folder / left)
        files.write_json(place, asked)
        configs.write(self.folder / "config.yaml", self.config)
        self.before = max((line["seconds"] for line in self._told()), default=0.0)

    @staticmethod
    def _until(asked: Mapping[str, Any], begun: int) -> dict[str, Any]:
        """What was asked for, without the stages that have not begun: those may be changed, and others added, on resuming."""
        return {**asked, "stages": asked.get("stages", [{}])[:begun]}

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


_UNLOGGED = ("stage", "ended", "total", "log_every", "of")
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

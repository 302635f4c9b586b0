"""A training run from a config to a sealed model: prepare, compare the candidates, refit the best, calibrate, evaluate, seal.

Everything finished is kept in the run folder; after a kill the same call with `resume` goes on from there.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import config as configs
from mainstem import files, seal
from mainstem.config import Candidate, Config
from mainstem.contracts import Array
from mainstem.errors import MainstemError
from mainstem.evaluation.report import evaluate, point_metrics
from mainstem.training import comparing, fitting, forecast, line, plan, shipping
from mainstem.training.comparing import Comparison, Kept, Score, Stop
from mainstem.training.fitting import Fitted, Problem
from mainstem.training.preparing import prepare
from mainstem.training.runfolder import RunFolder

__all__ = ["Result", "Stop", "export", "fit", "train"]

Say = Callable[[str], None]
FIT_SHARE = 0.9  # of a time limit: when fitting ends
HOLDS = "This model answers from training rows and holds them: whoever has the folder can read them."


@dataclass
class Result:
    """A finished run. `interrupted`: Ctrl-C cut it short; the model is the best so far."""

    folder: Path
    model: Path
    report: Mapping[str, Any]
    chosen: str
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)


def train(
    config: Config,
    source: Any = None,
    *,
    folder: Path,
    resume: bool = False,
    say: Say = lambda text: None,
    report: fitting.Report = lambda figures: None,
    stop: Stop | None = None,
) -> Result:
    """Train what `config` says on its data (or on `source`, a DataFrame) and seal the model in `folder`/model.

    Raises MainstemError for what a user can mend; a run that failed leaves its folder with what was finished.
    """
    return _Run(config, source, folder, resume, say, report, stop or Stop()).run()


def fit(config: Config, source: Any, model: Path, settings: Mapping[str, Any]) -> str:
    """Choose and fit a model as `train` does, and leave at `model` what answers alone: no run, no replay, no seal.

    settings: of the backbones that the config names. Returns the sentence of the choice. Raises MainstemError as `train` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(config, source, Path(folder), False, lambda text: None, lambda figures: None, Stop())
        run.data = prepare(config, source)
        candidates, _ = plan.candidates(config, run.data)
        chosen = run.choose([_with_settings(each, settings) for each in candidates])
        shipping.bare(model, chosen.fitted, run.data.raw(chosen.known[: seal.ROWS]))
        return chosen.sentence


def _with_settings(candidate: Candidate, settings: Mapping[str, Any]) -> Candidate:
    inputs = tuple(each.model_copy(update={"settings": {**each.settings, **settings}}) for each in candidate.inputs)
    return candidate.model_copy(update={"inputs": inputs})


def export(folder: Path, model: Path, source: Any = None, *, say: Say = lambda text: None) -> Result:
    """Seal at `model` what an unfinished run in `folder` has: the best finished candidate, or its newest checkpoint as it stands.

    The run itself stays as it is and can be resumed. Raises MainstemError where there is nothing to seal.
    """
    if (folder / "model" / files.MANIFEST).is_file():
        raise MainstemError(
            "this run is finished and its model is sealed", where=str(folder), do=f"Copy {folder / 'model'}: it is relocatable."
        )
    try:
        config = configs.build(json.loads((folder / "asked.json").read_bytes())["config"], str(folder))
    except (OSError, ValueError, KeyError, TypeError):
        raise MainstemError("this is no run folder", where=str(folder), do="Give the folder of a run, such as runs/reviews.") from None
    try:
        return _Run(config, source, folder, True, say, lambda figures: None, Stop(interrupted=True), model).run()
    except KeyboardInterrupt:
        raise MainstemError(
            "this run has no finished fit and no checkpoint yet", where=str(folder), do="Go on with it by --resume."
        ) from None


@dataclass(frozen=True)
class Chosen:
    """The best candidate, fitted on the rows `known`; `sentence`: why it is; `holds`: what people should know of the rows it keeps."""

    fitted: Fitted
    sentence: str
    holds: str
    scores: Sequence[Score]
    known: Array


class _Run:
    """One run: its settings, its folder and what was found so far."""

    def __init__(
        self,
        config: Config,
        source: Any,
        folder: Path,
        resume: bool,
        say: Say,
        report: fitting.Report,
        stop: Stop,
        model: Path | None = None,
    ) -> None:
        self.config, self.source, self.resuming, self.say, self.stop = config, source, resume, say, stop
        self.folder, self.model = RunFolder(folder, report, read_only=model is not None), model or folder / "model"

    def run(self) -> Result:
        """The whole of it, with the folder held against a second process."""
        self.data = prepare(self.config, self.source)
        candidates, notes = plan.candidates(self.config, self.data)
        for note in [*self.data.notes, *self.data.findings, *notes]:
            self.say(note)
        with files.held(self.folder.path):
            return self._train(candidates)

    def _train(self, candidates: Sequence[Candidate]) -> Result:
        self.folder.open(self.config, self.data, resume=self.resuming)
        if self.resuming and not self.folder.read_only and (told := self.folder.reported()):
            self.folder.clear()
            self.say("this run has ended already")
            return Result(self.folder.path, self.model, told["evaluation"], told["chosen"], notes=list(self.data.notes))
        self.folder.write_config(self.config, self.data, candidates, {})
        return self._finish(self.choose(candidates))

    def choose(self, candidates: Sequence[Candidate]) -> Chosen:
        """Compare the candidates, fit the best on all rows but those of the test, and calibrate it."""
        known = np.concatenate([self.data.parts["train"], self.data.parts["valid"]])
        self.problem = Problem(
            self.data.task,
            self.data.name,
            self.data.schema,
            fitting.fit_target(self.data.task, self.data.schema.targets, self.data.answers(known)),
            self.config.seed,
            self.config.data.class_weight,
            self.data.groups,
            self.data.times,
        )
        self.say(self.data.sentence)
        self.comparison = Comparison(self.config, self.data, self.problem, candidates, self.folder, self.stop, self.say)
        scores = self.comparison.run()
        score = comparing.best(self.data.task, scores)
        sentence = comparing.explain(self.data.task, scores, len(self.comparison.folds()))
        self.say(sentence)
        best = next(c for c in self.comparison.candidates if c.name == score.name)
        fitted = self._refit(best, score, known)
        fitted.artifact = replace(fitted.artifact, state=self.comparison.calibrate(score, fitted.artifact.state))
        holds = any(fitting.describe(each, best.training).holds_rows for each in best.inputs if each.backbone)
        note = fitted.learned.json.get("note", "") if fitted.learned else ""
        return Chosen(fitted, sentence, " ".join(filter(None, [HOLDS if holds else "", note])), scores, known)

    def _refit(self, best: Candidate, score: Score, known: Array) -> Fitted:
        """The winner on train and validation rows together, for as many epochs as did best."""
        limit = self.config.training.time_limit
        self.stop.deadline = self.folder.started + FIT_SHARE * limit if limit else None
        kept = self.comparison.kept
        kept = kept if kept and kept.name == best.name else None
        if self.config.cuts.get("refit") == 0 or self._no_time(best, kept, known):
            self.comparison.cuts["refit"] = 0
            return kept.fitted if kept else self.comparison.first_part(best)
        early = {"patience": None, "until": max(1, score.epochs)} if best.training.patience else {}
        training = best.training.model_copy(update=early)
        candidate = best.model_copy(update={"training": training})
        fitted = fitting.fit(
            self.comparison.limited(candidate, "refit"),
            self.problem,
            self.data.table.take(known),
            None,
            folder=self.folder.refit,
            report=lambda figures: self.folder.report({"candidate": best.name, "part": "refit", **figures}),
            stopped=self.stop,
        )
        if fitted.reason == "stopped":
            self.comparison.cuts["refit"] = 0 if kept else fitted.steps
            return kept.fitted if kept else fitted
        if fitted.networks is not None:
            self.say(f"{best.name} is refitted on {len(known):,} rows; ended: {fitted.reason}")
        return fitted

    def _no_time(self, best: Candidate, kept: Kept | None, known: Array) -> bool:
        """Whether a network could not be refitted before the run has to end. A predictor is always refitted: it takes a moment."""
        if fitting.predictor_of(best.inputs[0], best.training) is not None:
            return False
        if self.stop.interrupted:
            return not (self.folder.refit / "checkpoints").is_dir()
        if self.stop.deadline is None or kept is None:
            return False
        expected = kept.seconds * len(known) / max(1, len(self.comparison.folds()[0][0]))
        return time.monotonic() + expected > self.stop.deadline

    # the model

    def _finish(self, chosen: Chosen) -> Result:
        fitted, known = chosen.fitted, chosen.known
        table, test = self.data.table, self.data.parts["test"]
        measured = test if len(test) else self.data.parts["valid"]
        predictions, _ = fitting.answers(fitted, table.take(measured))
        labels = self.problem.target.json.get("labels", [])
        groups = None if self.data.groups is None else [self.data.groups[i] for i in measured]
        report = evaluate(
            self.data.name,
            predictions,
            self.data.answers(measured),
            labels,
            groups=groups,
            train_targets=self.data.answers(known),
            seed=self.config.seed,
        )
        report["part"] = "test" if len(test) else "valid"
        about = {
            "chosen": chosen.sentence,
            "holds": chosen.holds,
            "compared": [{"name": s.name, "metrics": dict(s.metrics)} for s in chosen.scores],
            "rows": {name: len(rows) for name, rows in self.data.parts.items()},
            "notes": [*self.data.notes, *self.data.findings],
            "metrics": report["metrics"],
        }
        fitted.artifact = replace(fitted.artifact, about=about)
        order = np.random.default_rng(self.config.seed).permutation(len(measured))
        golden = shipping.golden(self.data.raw(measured), table.take(measured), self.config.seed)
        drawn = np.sort(order[: shipping.TESTED])
        tested, whole = measured[drawn], len(predictions) == len(measured)
        expected = point_metrics(self.data.name, [predictions[i] for i in drawn], self.data.answers(tested), labels) if whole else {}
        sealed = shipping.ship(self.model, fitted, golden, self.data.raw(tested), expected, self.config.replay)
        if not self.folder.read_only:
            self.folder.write_config(self.config, self.data, self.comparison.candidates, self.comparison.cuts)
            for note in (
                *line.explain(self.folder.path, self.data, fitted, known),
                *forecast.explain(self.folder.path, table.take(measured), predictions),
                *getattr(self.data.task, "told", lambda state: [])(fitted.artifact.state),
                *filter(None, [chosen.holds]),
            ):
                self.say(note)
            self.folder.finish({**about, "evaluation": report, "seal": sealed, "interrupted": self.stop.interrupted})
        return Result(self.folder.path, self.model, report, chosen.sentence, self.stop.interrupted, list(self.data.notes))

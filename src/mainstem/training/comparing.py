"""Candidates side by side: each is fitted on the same parts and answers the same held-out rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mainstem import artifact as artifacts
from mainstem import files
from mainstem.config import Candidate, Config, InputSettings
from mainstem.contracts import Array, Batch, State, Task
from mainstem.data import splits
from mainstem.errors import MainstemError
from mainstem.evaluation import comparison
from mainstem.evaluation.report import point_metrics
from mainstem.inference import Pipeline
from mainstem.training import fitting
from mainstem.training.fitting import Fitted, Problem
from mainstem.training.preparing import Prepared
from mainstem.training.runfolder import RunFolder, finished, keep, training

COMPARE_SHARE = 0.6  # of a time limit: when comparing ends
WATCHED = 0.15  # of the rows a candidate learns from: those that early stopping watches
_SHOWN = ("accuracy", "roc_auc", "r2", "f1_micro")  # beside the figure that is compared


@dataclass
class Stop:
    """Whether to end early: `interrupted` is set on Ctrl-C, `deadline` (time.monotonic) by a time limit."""

    interrupted: bool = False
    deadline: float | None = None

    def __call__(self) -> bool:
        """Whether to end now."""
        return self.interrupted or (self.deadline is not None and time.monotonic() > self.deadline)


@dataclass(frozen=True)
class Score:
    """How a candidate did on rows it had not seen."""

    name: str
    metrics: Mapping[str, float | None]
    epochs: int
    outputs: Mapping[str, Array]
    rows: Array
    predictions: Sequence[Any] = ()
    state: State = field(default_factory=State)  # of the first part, to decode outputs with
    losses: Array | None = None  # by row, where rows have a loss of their own
    inputs: Sequence[InputSettings] = ()


@dataclass
class Kept:
    """The best candidate's fit on its first part: what a run falls back on where there is no time to refit."""

    name: str
    fitted: Fitted
    seconds: float


class Comparison:
    """The candidates of one run on its data. `kept`: the best one's first fit; `cuts`: what time cut (see Config.cuts)."""

    def __init__(
        self,
        config: Config,
        data: Prepared,
        problem: Problem,
        candidates: Sequence[Candidate],
        folder: RunFolder,
        stop: Stop,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.data, self.problem, self.candidates = config, data, problem, tuple(candidates)
        self.folder, self.stop, self.say = folder, stop, say
        self.cuts: dict[str, int] = {}
        self.latest: Kept | None = None
        self.kept: Kept | None = None

    def run(self) -> list[Score]:
        """Every candidate's score, in order; those that time cut off are left out, of `candidates` too."""
        limit = self.config.training.time_limit
        scores: list[Score] = []
        parts = self.folds()
        for number, candidate in enumerate(self.candidates):
            if limit:
                self.stop.deadline = self.folder.started + COMPARE_SHARE * limit
            if scores and self.stop():
                break
            score = self._score(number, candidate, parts)
            if score is None:
                break
            scores.append(score)
            if self.latest and best(self.data.task, scores) is score:
                self.kept = self.latest
            self.say(f"{candidate.name}: {shown(self.data.task, score) or 'fitted'}")
        if len(scores) < len(self.candidates):
            left = [c.name for c in self.candidates[len(scores) :]]
            self.say(f"not compared, for lack of time: {', '.join(left)}")
            self.candidates = self.candidates[: len(scores)]
        return scores

    def folds(self) -> list[tuple[Array, Array]]:
        """The (train, valid) pairs that candidates are compared on."""
        train, valid = self.data.parts["train"], self.data.parts["valid"]
        known = np.concatenate([train, valid])
        few = len(known) < self.config.split.folds_below and not self.config.data.valid and not self.data.by_time
        if not few or len(self.candidates) == 1:
            return [(train, valid)]
        try:
            return splits.folds(
                known,
                self.config.split.folds,
                self.data.table.target if self.data.task.target == "category" else None,
                None if self.data.groups is None else list(self.data.groups),
                self.data.table.hashes if self.data.keep_together else None,
                self.config.seed,
            )
        except MainstemError:  # fewer rows or groups than folds
            return [(train, valid)]

    def _score(self, number: int, candidate: Candidate, parts: Sequence[tuple[Array, Array]]) -> Score | None:
        """Fit a candidate on every part and join what it answers on the held-out rows; None where time cut it."""
        found: list[dict[str, Any]] = []
        wanted = self.config.cuts.get("folds", len(parts)) if number == 0 else len(parts)
        for fold, (train, valid) in enumerate(parts[:wanted]):
            if found and self.stop():
                if number:
                    return None
                self.cuts["folds"] = fold
                break
            result = self._fold(number, candidate, fold, train, valid)
            if result.pop("cut", False) and number:
                self.cuts.pop(f"{candidate.name}/{fold}", None)
                return None
            found.append(result)
        rows = np.concatenate([f["rows"] for f in found])
        outputs = {name: np.concatenate([f["outputs"][name] for f in found]) for name in found[0]["outputs"]}
        predictions = [p for f in found for p in f["predictions"]]
        epochs = int(np.median([f["epochs"] for f in found]))
        losses = [f["loss"] for f in found if f["loss"] is not None]
        score = Score(candidate.name, {}, epochs, outputs, rows, predictions, found[0]["state"], inputs=candidate.inputs)
        score = self._measured(score)
        return replace(score, metrics={**score.metrics, "loss": float(np.mean(losses)) if losses else None})

    def _fold(self, number: int, candidate: Candidate, fold: int, train: Array, valid: Array) -> dict[str, Any]:
        place = self.folder.place(number, candidate, fold)
        if kept := finished(place):
            return kept
        table = self.data.table
        learned, watched = self._parted(candidate, train)
        key, started = f"{candidate.name}/{fold}", time.monotonic()
        fitted = fitting.fit(
            self.limited(candidate, key),
            self.problem,
            table.take(learned),
            None if watched is None else table.take(watched),
            folder=training(place),
            final=fold == 0,
            report=lambda figures: self.folder.report({"candidate": candidate.name, "part": fold + 1, **figures}),
            stopped=self.stop,
        )
        cut = fitted.reason == "stopped"
        if cut:
            self.cuts[key] = fitted.steps
            if number == 0:
                self._check_learned(fitted)
        if fold == 0:
            self.latest = Kept(candidate.name, fitted, time.monotonic() - started)
        predictions, outputs = fitting.answers(fitted, table.take(valid))
        if outputs:  # what a task calibrates on is decoded once all parts are there
            predictions = []
        if not cut:
            keep(place, fitted, predictions, outputs, valid)
            if fold:  # what the first part learned is what an interrupted run falls back on
                files.remove(training(place))
        found = {"epochs": fitted.epochs, "loss": fitted.loss, "state": fitted.artifact.state}
        return {**found, "rows": valid, "outputs": outputs, "predictions": predictions, "cut": cut}

    def _parted(self, candidate: Candidate, rows: Array) -> tuple[Array, Array | None]:
        """The rows to learn from and those that early stopping watches: never the rows that the candidate is scored on."""
        training = candidate.training
        if not training.patience or (candidate.inputs and fitting.predictor_of(candidate.inputs[0], training)):
            return rows, None
        data = self.data
        try:
            parts = splits.split(
                len(rows),
                target=data.answers(rows) if data.task.target == "category" else None,
                groups=None if data.groups is None or data.times is not None else list(data.groups[rows]),
                times=None if data.times is None else data.times[rows],
                hashes=[data.table.hashes[int(i)] for i in rows],
                valid=WATCHED,
                test=0.0,
                seed=self.config.seed,
                keep_together=data.keep_together,
            )
        except MainstemError:  # too few rows or groups to part
            return rows, None
        return rows[parts["train"]], rows[parts["valid"]]

    def _check_learned(self, fitted: Fitted) -> None:
        """Raise where a run was cut before the first step: there is nothing to seal."""
        if not fitted.steps and self.stop.interrupted:
            raise KeyboardInterrupt
        if not fitted.steps:
            raise MainstemError("the time limit ended before the first step", do="Give more time: --time-limit 60s.")

    def limited(self, candidate: Candidate, key: str) -> Candidate:
        """The candidate with the steps after which this fit was cut in the run that its config comes from."""
        if key not in self.config.cuts:
            return candidate
        return candidate.model_copy(update={"training": candidate.training.model_copy(update={"steps": self.config.cuts[key]})})

    def _measured(self, score: Score) -> Score:
        """The candidate with the figures of its held-out answers, calibrated."""
        answers = self.data.answers(score.rows)
        predictions: Sequence[Any] = score.predictions
        if score.outputs:
            state = self.calibrate(score, score.state)
            predictions = self.data.task.decode(score.outputs, Batch({}, np.arange(len(score.rows)), len(score.rows)), state)
        metrics = point_metrics(self.data.name, predictions, answers, self.problem.target.json.get("labels", []))
        return replace(score, metrics=metrics, losses=comparison.losses(predictions, answers) if answers else None)

    def calibrate(self, score: Score, state: State) -> State:
        """The state of a fitted model with what is calibrated on held-out outputs; as it is for a task that does not calibrate."""
        if not score.outputs:
            return state
        bare = artifacts.Artifact(self.data.name, self.data.task.settings, self.data.schema, (), self.problem.target, state, {})
        targets = Pipeline(bare).processors.answers(self.data.answers(score.rows)) if self.data.task.target else {}
        return self.data.task.calibrate(score.outputs, targets, state)

    def first_part(self, best: Candidate) -> Fitted:
        """The candidate as its first part fitted it, from its last checkpoint, or fitted again where cuts are repeated."""
        learned, watched = self._parted(best, self.folds()[0][0])
        table = self.data.table
        fitted = fitting.fit(
            self.limited(best, f"{best.name}/0"),
            self.problem,
            table.take(learned),
            None if watched is None else table.take(watched),
            folder=training(self.folder.place(self.candidates.index(best), best, 0)),
            stopped=lambda: self.stop.interrupted,
        )
        self._check_learned(fitted)
        return fitted


# --- choosing ---------------------------------------------------------------------------------------------------------


def shown(task: Task, score: Score) -> str:
    """A candidate's figures in a few words."""
    names = [task.compared_by[0], *[n for n in _SHOWN if n in score.metrics]]
    return ", ".join(f"{n.replace('_', ' ')} {score.metrics[n]:.4g}" for n in dict.fromkeys(names) if score.metrics.get(n) is not None)


def leader(task: Task, scores: Sequence[Score]) -> Score:
    """The candidate with the best figure, the first of equals."""
    name, sign = task.compared_by

    def rank(score: Score) -> float:
        value = score.metrics.get(name)
        return -np.inf if value is None else sign * value

    return max(scores, key=rank)


def best(task: Task, scores: Sequence[Score]) -> Score:
    """The simplest model that is no worse than the leader beyond chance; candidates stand in the order of their complexity.

    Candidates of one model that differ in their training alone (the strength of a penalty) are as simple as each other: of
    those it is the best.
    """
    found = scores[comparison.simplest([s.losses for s in scores], scores.index(leader(task, scores)))]
    return leader(task, [s for s in scores if s is found or (s.inputs and s.inputs == found.inputs)])


def explain(task: Task, scores: Sequence[Score], parts: int) -> str:
    """The sentence that says which candidate was chosen and why, with the figures of the others."""
    name, sign = task.compared_by
    chosen = best(task, scores)
    if len(scores) == 1:
        told = f"; on held-out rows {shown(task, chosen)}" if shown(task, chosen) else ""
        return f"Chosen: {chosen.name}, the only candidate{told}."
    others = "; ".join(f"{s.name} {s.metrics[name]:.4g}" if s.metrics.get(name) is not None else s.name for s in scores if s is not chosen)
    on = f"on {parts} folds" if parts > 1 else "on the validation part"
    better, figure = "highest" if sign > 0 else "lowest", name.replace("_", " ")
    if chosen is leader(task, scores):
        why = f"with the {better} {figure} {on}"
    else:
        why = f"the simplest model whose {figure} {on} is within a standard error of the {better}"
    return f"Chosen: {chosen.name}, {why} ({shown(task, chosen)}). The others: {others}."

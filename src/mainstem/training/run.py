"""A training run from a config to a sealed model: prepare, compare the candidates, refit the best, calibrate, evaluate, seal.

Everything finished is kept in the run folder; after a kill the same call with `resume` goes on from there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import artifact as artifacts
from mainstem import config as configs
from mainstem import files, seal
from mainstem.config import Candidate, Config
from mainstem.contracts import Array, Batch, State, Table, Value
from mainstem.data import splits
from mainstem.errors import MainstemError, MissingExtra
from mainstem.evaluation import comparison
from mainstem.evaluation.report import evaluate, point_metrics
from mainstem.inference import Pipeline
from mainstem.training import fitting, line, plan, shipping
from mainstem.training.fitting import Fitted, Problem
from mainstem.training.preparing import Prepared, prepare
from mainstem.training.progress import Log, tensorboard

Say = Callable[[str], None]
COMPARE_SHARE, FIT_SHARE = 0.6, 0.9  # of a time limit: when comparing ends, when fitting ends


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


@dataclass
class Kept:
    """The best candidate's fit on its first part: what a run falls back on where there is no time to refit."""

    name: str
    fitted: Fitted
    seconds: float


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
        self.config, self.source, self.folder, self.resuming = config, source, folder, resume
        self.say, self.told, self.stop = say, report, stop
        self.exporting, self.model = model is not None, model or folder / "model"
        self.log = Log(folder / "log.jsonl")
        self.started = time.monotonic()
        self.writer: Any = None
        self.cuts: dict[str, int] = {}
        self.latest: Kept | None = None
        self.kept: Kept | None = None

    def run(self) -> Result:
        self.data = prepare(self.config, self.source)
        for note in [*self.data.notes, *self.data.findings]:
            self.say(note)
        self.candidates, notes = plan.candidates(self.config, self.data)
        for note in notes:
            self.say(note)
        with files.held(self.folder):
            return self._train()

    def _train(self) -> Result:
        self._open_folder()
        known = np.concatenate([self.data.parts["train"], self.data.parts["valid"]])
        self.problem = Problem(
            self.data.task,
            self.data.name,
            self.data.schema,
            fitting.fit_target(self.data.task, self.data.schema.targets, self._answers(known)),
            self.config.seed,
            self.config.data.class_weight,
            self.data.groups,
        )
        self.say(self._describe())
        scores = self._compare()
        best, sentence = self._choose(scores)
        self.say(sentence)
        fitted = self._refit(best, next(s for s in scores if s.name == best.name), known)
        fitted = self._calibrated(fitted, next(s for s in scores if s.name == best.name))
        return self._finish(best, fitted, sentence, scores, known)

    def report(self, figures: Mapping[str, Any]) -> None:
        """Pass figures on, and keep those of epochs in log.jsonl and for TensorBoard."""
        if found := figures.get("range"):
            with suppress(MissingExtra):
                files.write_bytes(self.folder / "lr.png", _plot(found))
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
        if self.writer is None:
            self.writer = tensorboard(self.folder / "tensorboard") or False
        if self.writer:
            for name in ("loss", "valid"):
                if figures.get(name) is not None:
                    self.writer.add_scalar(f"{figures['candidate']}/{figures['part']}/{name}", figures[name], figures["epoch"])

    # the folder

    def _open_folder(self) -> None:
        """Make the run folder, or take up the one of an unfinished run. Raises MainstemError where config or data differ."""
        asked = {"config": configs.dump(self.config), "data": self.data.fingerprint}
        place = self.folder / "asked.json"
        for parent in (self.folder, self.folder / "candidates", *self.folder.glob("candidates/*")):
            files.sweep(parent)
        if self.resuming and place.is_file():
            before = _asked(place)
            if before["data"] != asked["data"]:
                raise MainstemError(
                    "the data differs from that of the run to resume", where=str(self.folder), do="Start a new run without --resume."
                )
            if before["config"] != json.loads(json.dumps(asked["config"])):
                raise MainstemError(
                    "the config differs from that of the run to resume",
                    where=str(self.folder),
                    do=_difference(before["config"], asked["config"]),
                )
        else:
            files.write_json(place, asked)
        if not self.exporting:
            files.write_json(self.folder / "split.json", splits.record(self.data.parts, self.data.table.hashes))
            self._write_config()

    def _write_config(self) -> None:
        kinds = tuple(configs.ColumnSettings(name=c.name, kind=c.kind, settings=dict(c.settings)) for c in self.data.schema.columns)
        data = self.config.data.model_copy(update={"columns": kinds})
        update = {"data": data, "task": self.data.name, "candidates": tuple(self.candidates), "cuts": {**self.config.cuts, **self.cuts}}
        configs.write(self.folder / "config.yaml", self.config.model_copy(update=update))

    def _answers(self, rows: Array) -> list[Value]:
        """The answers of these rows; none where the task has no answers."""
        answers = self.data.table.target
        return [] if answers is None else [answers[int(i)] for i in rows]

    def _describe(self) -> str:
        sizes = ", ".join(f"{len(self.data.parts[p]):,} {p}" for p in ("train", "valid", "test"))
        inputs = ", ".join(f"{c.name} ({c.kind})" for c in self.data.schema.columns)
        inputs = inputs if len(inputs) < 400 else f"{len(self.data.schema.columns)} columns"
        answer = ", ".join(t.name for t in self.data.schema.targets)
        return f"{self.data.name}{' of ' * bool(answer)}{answer} from {inputs}; rows: {sizes}"

    # comparing

    def _compare(self) -> list[Score]:
        limit = self.config.training.time_limit
        scores: list[Score] = []
        parts = self._folds()
        for number, candidate in enumerate(self.candidates):
            if limit:
                self.stop.deadline = self.started + COMPARE_SHARE * limit
            if scores and self.stop():
                break
            score = self._score(number, candidate, parts)
            if score is None:
                break
            scores.append(score)
            if self.latest and self._best(scores) is score:
                self.kept = self.latest
            self.say(f"{candidate.name}: {self._shown(score) or 'fitted'}")
        if len(scores) < len(self.candidates):
            left = [c.name for c in self.candidates[len(scores) :]]
            self.say(f"not compared, for lack of time: {', '.join(left)}")
            self.candidates = self.candidates[: len(scores)]
        return scores

    def _folds(self) -> list[tuple[Array, Array]]:
        """The (train, valid) pairs that candidates are compared on."""
        train, valid = self.data.parts["train"], self.data.parts["valid"]
        known = np.concatenate([train, valid])
        few = len(known) < self.config.split.folds_below and not self.config.data.valid and not self.config.data.time
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
        score = Score(candidate.name, {}, epochs, outputs, rows, predictions, found[0]["state"])
        score = self._measured(score)
        return replace(score, metrics={**score.metrics, "loss": float(np.mean(losses)) if losses else None})

    def _fold(self, number: int, candidate: Candidate, fold: int, train: Array, valid: Array) -> dict[str, Any]:
        place, training = self._place(candidate, fold), self._place(candidate, fold, "-training")
        if kept := _finished(place):
            return kept
        table = self.data.table
        key, started = f"{candidate.name}/{fold}", time.monotonic()
        fitted = fitting.fit(
            self._limited(candidate, key),
            self.problem,
            table.take(train),
            table.take(valid),
            folder=training,
            final=fold == 0,
            report=lambda figures: self.report({"candidate": candidate.name, "part": fold + 1, **figures}),
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
            _keep(place, fitted, predictions, outputs, valid)
            if fold:  # what the first part learned is what an interrupted run falls back on
                files.remove(training)
        found = {"epochs": fitted.epochs, "loss": fitted.loss, "state": fitted.artifact.state}
        return {**found, "rows": valid, "outputs": outputs, "predictions": predictions, "cut": cut}

    def _check_learned(self, fitted: Fitted) -> None:
        """Raise where a run was cut before the first step: there is nothing to seal."""
        if not fitted.steps and self.stop.interrupted:
            raise KeyboardInterrupt
        if not fitted.steps:
            raise MainstemError("the time limit ended before the first step", do="Give more time: --time-limit 60s.")

    def _limited(self, candidate: Candidate, key: str) -> Candidate:
        """The candidate with the steps after which this fit was cut in the run that its config comes from."""
        if key not in self.config.cuts:
            return candidate
        return candidate.model_copy(update={"training": candidate.training.model_copy(update={"steps": self.config.cuts[key]})})

    def _measured(self, score: Score) -> Score:
        """The candidate with the figures of its held-out answers, calibrated."""
        answers = self._answers(score.rows)
        predictions: Sequence[Any] = score.predictions
        if score.outputs:
            state = self._calibrate(score, score.state)
            predictions = self.data.task.decode(score.outputs, Batch({}, np.arange(len(score.rows)), len(score.rows)), state)
        metrics = point_metrics(self.data.name, predictions, answers, self.problem.target.json.get("labels", []))
        return replace(score, metrics=metrics, losses=comparison.losses(predictions, answers) if answers else None)

    def _calibrate(self, score: Score, state: State) -> State:
        """The state of a fitted model with what is calibrated on held-out outputs; as it is for a task that does not calibrate."""
        if not score.outputs:
            return state
        bare = artifacts.Artifact(self.data.name, self.data.task.settings, self.data.schema, (), self.problem.target, state, {})
        targets = Pipeline(bare).processors.answers(self._answers(score.rows)) if self.data.task.target else {}
        return self.data.task.calibrate(score.outputs, targets, state)

    # choosing

    def _shown(self, score: Score) -> str:
        compared, _ = self.data.task.compared_by
        names = [compared, *[n for n in ("accuracy", "roc_auc", "r2", "f1_micro") if n in score.metrics]]
        return ", ".join(f"{n.replace('_', ' ')} {score.metrics[n]:.4g}" for n in dict.fromkeys(names) if score.metrics.get(n) is not None)

    def _choose(self, scores: Sequence[Score]) -> tuple[Candidate, str]:
        """The candidate to take, and a sentence that says why."""
        name, sign = self.data.task.compared_by
        best = self._best(scores)
        chosen = next(c for c in self.candidates if c.name == best.name)
        if len(scores) == 1:
            shown = f"; on held-out rows {self._shown(best)}" if self._shown(best) else ""
            return chosen, f"Chosen: {best.name}, the only candidate{shown}."
        others = "; ".join(
            f"{s.name} {s.metrics[name]:.4g}" if s.metrics.get(name) is not None else s.name for s in scores if s is not best
        )
        parts = len(self._folds())
        on = f"on {parts} folds" if parts > 1 else "on the validation part"
        better = "highest" if sign > 0 else "lowest"
        figure = name.replace("_", " ")
        if best is not self._leader(scores):
            why = f"the simplest whose {figure} {on} is within a standard error of the {better}"
        else:
            why = f"with the {better} {figure} {on}"
        return chosen, f"Chosen: {best.name}, {why} ({self._shown(best)}). The others: {others}."

    def _leader(self, scores: Sequence[Score]) -> Score:
        """The candidate with the best figure, the first of equals."""
        name, sign = self.data.task.compared_by

        def rank(score: Score) -> float:
            value = score.metrics.get(name)
            return -np.inf if value is None else sign * value

        return max(scores, key=rank)

    def _best(self, scores: Sequence[Score]) -> Score:
        """The simplest candidate that is no worse than the leader beyond chance; candidates stand in order of their complexity."""
        return scores[comparison.simplest([s.losses for s in scores], scores.index(self._leader(scores)))]

    def _refit(self, best: Candidate, score: Score, known: Array) -> Fitted:
        """The winner on train and validation rows together, for as many epochs as did best."""
        limit = self.config.training.time_limit
        self.stop.deadline = self.started + FIT_SHARE * limit if limit else None
        kept = self.kept if self.kept and self.kept.name == best.name else None
        if self.config.cuts.get("refit") == 0 or self._no_time(best, kept, known):
            self.cuts["refit"] = 0
            return kept.fitted if kept else self._first_part(best)
        place = self.folder / "candidates" / "refit-training"
        early = {"patience": None, "until": max(1, score.epochs)} if best.training.patience else {}
        training = best.training.model_copy(update=early)
        candidate = best.model_copy(update={"training": training})
        fitted = fitting.fit(
            self._limited(candidate, "refit"),
            self.problem,
            self.data.table.take(known),
            None,
            folder=place,
            report=lambda figures: self.report({"candidate": best.name, "part": "refit", **figures}),
            stopped=self.stop,
        )
        if fitted.reason == "stopped":
            self.cuts["refit"] = 0 if kept else fitted.steps
            return kept.fitted if kept else fitted
        if fitted.networks is not None:
            self.say(f"{best.name} is refitted on {len(known):,} rows; ended: {fitted.reason}")
        return fitted

    def _no_time(self, best: Candidate, kept: Kept | None, known: Array) -> bool:
        """Whether a network could not be refitted before the run has to end. A predictor is always refitted: it takes a moment."""
        if fitting.predictor_of(best.inputs[0], best.training) is not None:
            return False
        if self.stop.interrupted:
            return not (self.folder / "candidates" / "refit-training" / "checkpoints").is_dir()
        if self.stop.deadline is None or kept is None:
            return False
        expected = kept.seconds * len(known) / max(1, len(self._folds()[0][0]))
        return time.monotonic() + expected > self.stop.deadline

    def _first_part(self, best: Candidate) -> Fitted:
        """The candidate as its first part fitted it, from its last checkpoint, or fitted again where cuts are repeated."""
        train, valid = self._folds()[0]
        table = self.data.table
        fitted = fitting.fit(
            self._limited(best, f"{best.name}/0"),
            self.problem,
            table.take(train),
            table.take(valid),
            folder=self._place(best, 0, "-training"),
            stopped=lambda: self.stop.interrupted,
        )
        self._check_learned(fitted)
        return fitted

    def _place(self, candidate: Candidate, part: int, more: str = "") -> Path:
        """Where a part of the comparison is kept."""
        number = self.candidates.index(candidate) + 1
        return self.folder / "candidates" / f"{number:02d}-{_slug(candidate.name)}" / f"part-{part + 1}{more}"

    def _calibrated(self, fitted: Fitted, score: Score) -> Fitted:
        state = self._calibrate(score, fitted.artifact.state)
        fitted.artifact = replace(fitted.artifact, state=state)
        return fitted

    # the model

    def _finish(self, best: Candidate, fitted: Fitted, sentence: str, scores: Sequence[Score], known: Array) -> Result:
        table, test = self.data.table, self.data.parts["test"]
        measured = test if len(test) else self.data.parts["valid"]
        predictions, _ = fitting.answers(fitted, table.take(measured))
        labels = self.problem.target.json.get("labels", [])
        groups = None if self.data.groups is None else [self.data.groups[i] for i in measured]
        report = evaluate(
            self.data.name,
            predictions,
            self._answers(measured),
            labels,
            groups=groups,
            train_targets=self._answers(known),
            seed=self.config.seed,
        )
        report["part"] = "test" if len(test) else "valid"
        about = {
            "chosen": sentence,
            "compared": [{"name": s.name, "metrics": dict(s.metrics)} for s in scores],
            "rows": {name: len(rows) for name, rows in self.data.parts.items()},
            "notes": [*self.data.notes, *self.data.findings],
            "metrics": report["metrics"],
        }
        fitted.artifact = replace(fitted.artifact, about=about)
        order = np.random.default_rng(self.config.seed).permutation(len(measured))
        golden = shipping.golden(self.data.raw(measured), table.take(measured), self.config.seed)
        chosen = np.sort(order[: shipping.TESTED])
        tested, whole = measured[chosen], len(predictions) == len(measured)
        expected = point_metrics(self.data.name, [predictions[i] for i in chosen], self._answers(tested), labels) if whole else {}
        sealed = shipping.ship(self.model, fitted, golden, self.data.raw(tested), expected, self.config.replay)
        if not self.exporting:
            self._write_config()
            files.write_json(self.folder / "report.json", {**about, "evaluation": report, "seal": sealed})
            for leftover in (self.folder / "candidates").glob("**/*-training"):
                files.remove(leftover)
            for note in line.explain(self.folder, self.data, fitted, known):
                self.say(note)
        return Result(self.folder, self.model, report, sentence, self.stop.interrupted, list(self.data.notes))


def _asked(place: Path) -> dict[str, Any]:
    """What the run to resume was asked for. Raises MainstemError where that cannot be read."""
    try:
        before = json.loads(place.read_bytes())
        return {"data": str(before["data"]), "config": dict(before["config"])}
    except (OSError, ValueError, TypeError, KeyError):
        raise MainstemError("this does not say what the run was asked for", where=str(place), do="Start a new run.") from None


def _keep(place: Path, fitted: Fitted, predictions: Sequence[Any], outputs: Mapping[str, Array], rows: Array) -> None:
    """Write what a finished fit answers on its held-out rows, for the comparison and for a resumed run."""
    arrays = {"rows": rows, **{f"outputs/{name}": array for name, array in outputs.items()}}
    with files.folder(place, {"format": 1}) as made:
        state = artifacts.pack_state(made, fitted.artifact.state, "state", "state", arrays)
        rendered = [seal.rendered(Pipeline(fitted.artifact), p) for p in predictions]
        result = {"epochs": fitted.epochs, "loss": fitted.loss, "predictions": rendered, "outputs": sorted(outputs), "state": state}
        made.add_json("result.json", result)
        made.add("outputs.safetensors", artifacts.pack_arrays(arrays))


def _finished(place: Path) -> dict[str, Any] | None:
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
    except (OSError, ValueError, TypeError, KeyError, AttributeError, MainstemError):
        return None


def _plot(found: Any) -> bytes:
    from mainstem.training import ranges

    return ranges.plot(found)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "candidate"


def _difference(before: Any, after: Any, path: str = "") -> str:
    """The first fields that differ between two configs, for a message."""
    fields = []
    for key in sorted({*before, *after}):
        a, b = before.get(key), after.get(key)
        if a != b:
            fields.append(f"{key}: {json.dumps(a, ensure_ascii=False)} then, {json.dumps(b, ensure_ascii=False)} now")
    return f"It differs in {'; '.join(fields)[:400]}."


def table_of(data: Prepared, part: str) -> Table:
    """The typed rows of one part."""
    return data.table.take(data.parts[part])

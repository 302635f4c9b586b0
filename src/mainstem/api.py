"""One thin function a verb: what the command line calls, and what `import mainstem as ms` offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mainstem import artifact
from mainstem.contracts import Prediction, Rows
from mainstem.errors import MainstemError
from mainstem.schema import UNANSWERED

Say = Callable[[str], None]


class Model:
    """A sealed model folder, verified when it is loaded. Needs no PyTorch."""

    def __init__(self, path: Path | str) -> None:
        from mainstem import seal

        self.path = artifact.find(path)
        artifact.check(self.path)
        self.pipeline, self.runner = seal.open_folder(self.path)

    def __repr__(self) -> str:
        contents = self.pipeline.artifact
        return f"<Model of {contents.task} at {self.path}>"

    def predict(self, data: Any, *, on_error: str = "fail", options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Predictions for rows in any form that `train` takes, or a list of texts where the model reads one column.

        Each is {"prediction", "score", "scores", …}, in the order of the rows. on_error: "fail" raises the first bad row's
        MainstemError; "skip" gives {"error": sentence} in its place.
        """
        answers = self.answer(self.read(data), options)
        if on_error == "fail":
            for answer in answers:
                if isinstance(answer, MainstemError):
                    raise answer
        return [{"error": str(a)} if isinstance(a, MainstemError) else self.pipeline.render(a) for a in answers]

    def answer(self, rows: Rows, options: Mapping[str, Any] | None = None) -> list[Prediction | MainstemError]:
        """One answer a row, bad rows as their error. Raises MainstemError for options that the task does not know."""
        from mainstem import seal
        from mainstem.inference import check_options

        check_options(self.pipeline.task, dict(options or {}))
        with seal.blamed(self.pipeline, self.runner, self.path):
            return self.pipeline.predict(rows, self.runner, options)[0]

    def read(self, data: Any) -> Rows:
        """Any source of rows, read with this model's columns in mind."""
        from mainstem.data import sources

        return data if isinstance(data, Rows) else sources.read(data, like=self.pipeline.artifact.schema)

    def evaluate(self, data: Any, *, group: str = "", seed: int = 0, resamples: int = 1000) -> dict[str, Any]:
        """Metrics with 95 % bootstrap intervals beside a trivial baseline, as JSON (see evaluation/report.py).

        group: a column whose values are resampled whole. Rows without an answer are left out and counted as "unanswered".
        Raises MainstemError for rows that do not parse, and where no row has an answer.
        """
        from mainstem import seal
        from mainstem.evaluation.report import evaluate

        rows = self.pipeline.artifact.schema.gathered(self.read(data), target=True)
        table, errors = self.pipeline.parse(rows, target=True)
        wrong = {i: error for i, error in errors.items() if error.what != UNANSWERED or not table}
        if wrong:
            first = wrong[min(wrong)]
            raise MainstemError(f"{first.what} ({len(wrong)} rows cannot be evaluated)", where=first.where, do=first.do)
        groups = None
        if group:
            if group not in rows.columns:
                raise MainstemError(f"there is no column '{group}'", where=rows.where)
            groups = [str(rows.columns[group][i]) for i in table.source]
        with seal.blamed(self.pipeline, self.runner, self.path):
            predictions = self.pipeline.judge_table(table, self.runner)
        labels = self.pipeline.artifact.state.json.get("labels", [])
        contents = self.pipeline.artifact
        report: dict[str, Any] = evaluate(
            contents.task, predictions, table.target or [], labels, groups=groups, seed=seed, resamples=resamples
        )
        return {**report, "unanswered": len(errors)} if errors else report

    def verify(self, data: Any = None, *, url: str = "", token: str = "") -> dict[str, Any]:
        """Hold the model against its replay, here or at a live server's `url`. Raises seal.Mismatch where it differs."""
        from mainstem import seal

        return seal.verify(self.path, None if data is None else self.read(data), url, token)


@dataclass
class Run:
    """A finished training run."""

    path: Path
    report: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = ""
    interrupted: bool = False

    @cached_property
    def model(self) -> Model:
        """The model that the run sealed."""
        return Model(self.path)


def load(path: Path | str) -> Model:
    """The model of a model folder or a run folder. Raises MainstemError where it is not as it was sealed."""
    return Model(path)


def train(
    data: Any = None,
    target: str | Sequence[str] = (),
    *,
    out: Path | str | None = None,
    config: Path | str | Mapping[str, Any] | None = None,
    resume: bool = False,
    say: Say = lambda text: None,
    report: Callable[[Mapping[str, Any]], None] = lambda figures: None,
    stop: Any = None,
    **settings: Any,
) -> Run:
    """Train, evaluate and seal a model; returns the run.

    data: a path (CSV, TSV, JSONL, Parquet, XLSX, a folder of class folders of pictures), a DataFrame, a list of dicts.
    target: the column to predict, or several yes/no columns.
    out: the run folder; default runs/STEM, then runs/STEM-2.
    config: a YAML file or a tree of settings; `settings` are set over it: the names of SHORT, "training.lr" style paths
    with "__" for the dot, or the hub's training names.
    Raises MainstemError for what a user can mend.
    """
    from mainstem.training import run

    made = configure(data, target, config, settings)
    path = Path(out) if out else run_folder(made.data.path, resume)
    if path.exists() and not path.is_dir():
        raise MainstemError("this is a file, and a run is a folder", where=str(path), do="Choose another place with -o.")
    if path.exists() and not resume and any(path.iterdir()):
        raise MainstemError("this run folder exists already", where=str(path), do="Choose another with -o, or go on with it by --resume.")
    source = None if isinstance(data, str | Path) or data is None else data
    result = run.train(made, source, folder=path, resume=resume, say=say, report=report, stop=stop)
    return Run(result.folder, result.report, result.chosen, result.interrupted)


def export(run: Path | str, out: Path | str, data: Any = None, *, say: Say = lambda text: None) -> Model:
    """Seal at `out` what an unfinished run has: its best finished candidate, or its newest checkpoint as it stands; or a backbone
    alone, whose answers are its features.

    run: a run folder, or the reference of a backbone (hf:FOLDER, hf:ORG/NAME, timm:FOLDER, or a folder that is one).
    data: the DataFrame that the run was started with, where it was one. Raises MainstemError where there is nothing to seal.
    """
    from mainstem.training import run as training

    if Path(out).exists():
        raise MainstemError("this exists already", where=str(out), do="Choose another place with -o.")
    if ":" in str(run) or (Path(run) / "config.json").is_file():
        from mainstem.training import embedding

        embedding.export(str(run), Path(out))
        return Model(out)
    return Model(training.export(Path(run), Path(out), data, say=say).model)


def compress(
    model: Path | str,
    out: Path | str,
    data: Any = None,
    *,
    method: str = "int8",
    say: Say = lambda text: None,
) -> Model:
    """A model with its backbones compressed, written and sealed at `out`; equal backbones give equal graphs, whatever their task.

    data: rows with answers in any form that `train` takes, to measure both models on besides the replay. Raises MainstemError where there
    is nothing to compress, and where the result would answer otherwise than is allowed.
    """
    from mainstem import registry
    from mainstem.compress import _model

    if Path(out).exists():
        raise MainstemError("this exists already", where=str(out), do="Choose another place with -o.")
    registry.load("compress", method)  # a wrong name is told before the model is read
    _need_onnx()
    source = Model(model)
    _model.compress(source.path, Path(out), method, None if data is None else source.read(data), say)
    return Model(out)


def _need_onnx() -> None:
    from importlib.util import find_spec

    if find_spec("onnx") is None:
        raise MainstemError("rewriting graphs needs onnx", do="pip install 'mainstem[tables]'.")


def pretrain(
    data: str | Path = "",
    objective: str = "",
    *,
    out: Path | str,
    config: Path | str | Mapping[str, Any] | None = None,
    resume: bool = False,
    say: Say = lambda text: None,
    report: Callable[[Mapping[str, Any]], None] = lambda figures: None,
    stopped: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Any:
    """Pretrain a backbone; returns where it lies, with how many steps and what held-out loss (training/pretraining.py).

    data: a file or a folder of files; "" for an objective that makes its own.
    config: a YAML file or a tree of settings (config.Pretraining); `settings` are set over it: objective, backbone, inputs, the names
    of SHORT that lie in the training, or "training__lr" style.
    Raises MainstemError for what a user can mend.
    """
    from mainstem.training import parallel, pretraining

    given = {**settings, "data": str(data) if data else None, "objective": objective or None}
    assignments = {_pretraining_field(name): value for name, value in given.items() if value is not None}
    if isinstance(assignments.get("inputs"), str):
        assignments["inputs"] = [assignments["inputs"]]
    made = _pretraining(config, assignments)
    path = Path(out)
    taken = path.exists() and (not path.is_dir() or (any(path.iterdir()) and not pretraining.never_began(path)))
    if taken and not resume and parallel.announced().is_first:  # the others may find what the first has made
        raise MainstemError("this exists already", where=str(path), do="Choose another folder with -o, or go on with it by --resume.")
    return pretraining.pretrain(made, folder=path, resume=resume, say=say, report=report, stopped=stopped)


def estimate(config: Path | str | Mapping[str, Any]) -> tuple[Any, Any]:
    """The config of a pretraining run, and what it will need on this machine: parameters, memory, time (training/estimate.py).

    Raises MainstemError for what a user can mend.
    """
    from mainstem.training import estimate

    made = _pretraining(config, {})
    return made, estimate.estimate(made)


def _pretraining(config: Path | str | Mapping[str, Any] | None, assignments: Mapping[str, Any]) -> Any:
    from mainstem import config as configs

    tree: Mapping[str, Any] = config if isinstance(config, Mapping) else configs.read(config) if config else {}
    return configs.parse(configs.Pretraining, configs.overlay(tree, assignments), "" if isinstance(config, Mapping) else str(config or ""))


def _pretraining_field(name: str) -> str:
    """The field of config.Pretraining that a keyword or a flag means."""
    short = SHORT.get(name, "")
    return {"input": "inputs"}.get(name) or (short if short.startswith("training.") else name.replace("__", "."))


# Settings that have a flag, and where they lie in the config.
SHORT = {
    "task": "task",
    "inputs": "data.inputs",
    "valid": "data.valid",
    "test": "data.test",
    "group": "data.group",
    "time": "data.time",
    "series": "data.series",
    "horizon": "data.horizon",
    "window": "data.window",
    "season": "data.season",
    "future": "data.future",
    "separator": "data.separator",
    "encoding": "data.encoding",
    "class_weight": "data.class_weight",
    "backbones": "backbones",
    "adapt": "adapt",
    "epochs": "training.epochs",
    "steps": "training.steps",
    "batch_size": "training.batch_size",
    "lr": "training.lr",
    "optimizer": "training.optimizer",
    "schedule": "training.schedule",
    "time_limit": "training.time_limit",
    "tol": "training.tol",
    "patience": "training.patience",
    "seed": "seed",
    "allow_leak": "split.allow_leak",
    "replay": "replay",
}


def configure(data: Any, target: str | Sequence[str], config: Any, settings: Mapping[str, Any]) -> Any:
    """Flags or keyword arguments → a config. Raises MainstemError that names every wrong field."""
    from mainstem import config as configs

    tree: Mapping[str, Any] = config if isinstance(config, Mapping) else configs.read(config) if config else {}
    where = "" if isinstance(config, Mapping) or not config else str(config)
    assignments: dict[str, Any] = {}
    for name, value in settings.items():
        if value is None:
            continue
        name = {"backbone": "backbones", "input": "inputs"}.get(name, name)
        if name in ("backbones", "inputs", "future"):
            value = (
                [value] if isinstance(value, str) else [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else list(value)
            )
        if name == "columns":
            assignments["data.columns"] = [{"name": column, "kind": kind} for column, kind in dict(value).items()]
        else:
            assignments[SHORT.get(name) or configs.HUB_NAMES.get(name) or name.replace("__", ".")] = value
    if isinstance(data, str | Path):
        assignments["data.path"] = str(data)
    targets = [target] if isinstance(target, str) else list(target)
    if targets:
        assignments["data.targets"] = targets
    made = configs.build(configs.overlay(tree, assignments), where)
    if not made.data.path and data is None:
        raise MainstemError("there is no data to train on", do="Give a file, a folder or a DataFrame.")
    return made


def run_folder(path: str, resume: bool) -> Path:
    """runs/STEM, or the first of runs/STEM-2, -3, … that is not there; with `resume` the last that is."""
    stem = Path(path).name.split(".")[0] if path and path != "-" else "frame"
    base = Path("runs") / (stem or "run")
    names = _numbered(base)
    found = next(names)
    last = found
    while found.exists():
        last, found = found, next(names)
    return last if resume else found


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1

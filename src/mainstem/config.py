"""The whole of a training run as one tree of small frozen settings; every flag is a field of it, and the YAML file holds it all.

Unknown keys are errors with a suggestion. A resolved config (what `config.yaml` in a run folder holds) alone reproduces the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from mainstem import files
from mainstem.errors import MainstemError, suggest


class Settings(BaseModel):
    """Base of every component's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


M = TypeVar("M", bound=Settings)


class ColumnSettings(Settings):
    """One column of the data."""

    name: str
    kind: str
    """number, category, date, text, image, labels"""
    settings: dict[str, Any] = {}


class Data(Settings):
    """Where the rows come from, and what they mean."""

    path: str = ""
    """file or folder; "" for a DataFrame that was handed in"""
    valid: str = ""
    """a file whose rows are the validation part"""
    test: str = ""
    """a file whose rows are the test part"""
    targets: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    """the columns to learn from, or ROLE=COLUMN; empty: all but the targets and those that steer the split"""
    columns: tuple[ColumnSettings, ...] = ()
    """kinds of columns; those not named are inferred"""
    separator: str = ""
    """between several labels in one cell; "" detects it"""
    encoding: str = ""
    """of a text file; "" detects it"""
    group: str = ""
    """rows of one group stay on one side of every split"""
    time: str = ""
    """the last rows by this column are the test part"""
    series: str = ""
    """the column that tells series apart, whose rows stand in long format"""
    horizon: int = Field(0, ge=0, le=10_000)
    """steps to forecast"""
    window: int = Field(0, ge=0, le=100_000)
    """steps of history that a model of series sees; 0: as many as there are, up to 1,024"""
    season: int = Field(0, ge=0, le=100_000)
    """steps after which a series repeats; 0: found in the data, 1: none"""
    future: tuple[str, ...] = ()
    """covariates of a forecast that are known in advance"""
    class_weight: Literal["", "balanced"] = ""


class Split(Settings):
    """How rows are parted."""

    valid: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.15, ge=0, lt=1)
    folds: int = Field(5, ge=2)
    """candidates are compared on so many folds while there are fewer than `folds_below` rows, else on the validation part"""
    folds_below: int = 5000
    allow_leak: bool = False


class Lora(Settings):
    """The adapters of --adapt lora."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    slots: tuple[str, ...] = ()
    """ends of the names of the linear layers that get one; empty: the family's own choice"""


class InputSettings(Settings):
    """One input of the model: the columns it is made of and the backbone that reads it."""

    name: str
    """"table", the modality ("text", "text2", "image"), or the role where the task has roles"""
    columns: tuple[str, ...]
    backbone: str = ""
    """a reference: mlp, ngram, hf:FOLDER, … or a predictor: linear, trees; "": encoded columns go to the task as they are"""
    settings: dict[str, Any] = {}
    """of the backbone: depth, width, dropout, …"""
    processor: dict[str, Any] = {}
    """of the encoding: scaling, max_length, size, augment, …"""
    adapt: Literal["", "probe", "lora", "full"] = ""
    """"" is full for a network from scratch, probe for a pretrained one"""
    lora: Lora = Lora()


class Training(Settings):
    """How the networks are trained."""

    optimizer: Literal["", "gd", "sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "muon", "lbfgs"] = ""
    """"" lets the plan choose; gd is full-batch gradient descent"""
    lr: float | Literal["auto"] | None = None
    batch_size: int | Literal["full"] | None = None
    group_by_length: bool = False
    """texts of like length share a batch: less padding, in batches that are a little less random"""
    epochs: int | None = Field(None, ge=1)
    """what schedules are laid out for"""
    until: int | None = Field(None, ge=1)
    """epochs after which to stop all the same; a refit stops where early stopping did"""
    steps: int | None = Field(None, ge=1)
    time_limit: float | None = Field(None, gt=0)
    """seconds for the whole run; cuts the end of the plan"""
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    l1: float = Field(0.0, ge=0)
    l2: float = Field(0.0, ge=0)
    """added to the loss as l2/2·|w|² (weights, not biases and norms)"""
    weight_decay: float = Field(0.0, ge=0)
    """decoupled, adamw only"""
    clip: float | None = Field(None, gt=0)
    """largest norm of the gradient"""
    schedule: Literal["constant", "step", "cosine", "warmup", "plateau", "one-cycle"] = "constant"
    warmup: float = Field(0.0, ge=0)
    """steps of linear warm-up before any schedule; below 1 a share of all steps"""
    step_size: int = Field(10, ge=1)
    """schedule step: epochs between drops"""
    gamma: float = Field(0.1, gt=0, lt=1)
    """schedules step and plateau: factor of a drop"""
    plateau: int = Field(5, ge=1)
    """schedule plateau: epochs without improvement before a drop"""
    patience: int | None = Field(None, ge=1)
    """epochs without improvement on the validation part before the stop; the best weights are restored"""
    tol: float | None = Field(None, ge=0)
    """stop once the loss changes by less than this share of itself from one epoch to the next"""
    log_every: int | None = Field(None, ge=1)
    """print the loss every so many epochs"""
    accumulate: int = Field(1, ge=1)
    """parts that a batch is computed in, one after the other: less memory, the same step"""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """of matrix products; auto: bfloat16 where a first measurement finds it faster"""
    checkpoint_activations: bool = False
    """compute activations again for the gradient instead of keeping them: less memory, about a third more time"""
    compile: bool = False
    """compile the networks first"""
    checkpoint_every: float = Field(60.0, ge=0)
    """seconds between checkpoints; 0: after every step"""

    @field_validator("lr", "batch_size", mode="before")
    @classmethod
    def _positive(cls, value: Any, info: ValidationInfo) -> Any:
        """One sentence for the whole of "a number or a word", where pydantic has one for each half."""
        word = {"lr": "auto", "batch_size": "full"}[str(info.field_name)]
        try:
            good = value is None or value == word or 0 < float(value) < math.inf
        except (TypeError, ValueError):
            good = False
        if not good:
            raise PydanticCustomError("positive", f"a number above 0 or '{word}' is expected")
        return value


class Candidate(Settings):
    """One way to answer, to be compared with others: its inputs with their backbones, the head, the training."""

    name: str
    inputs: tuple[InputSettings, ...]
    head: dict[str, Any] = {}
    """of the task's head: hidden, dropout"""
    training: Training = Training()


class Config(Settings):
    """A training run."""

    data: Data = Data()
    split: Split = Split()
    task: str = ""
    task_settings: dict[str, Any] = {}
    """loss, label_smoothing, …"""
    candidates: tuple[Candidate, ...] = ()
    """empty: the plan that fits the data"""
    backbones: tuple[str, ...] = ()
    """[MODALITY=]REF, as on the command line: what the plan must use"""
    adapt: Literal["", "probe", "lora", "full"] = ""
    training: Training = Training()
    """given settings win over those of the plan, in every candidate"""
    seed: int = 0
    replay: Literal["full", "hashes"] = "full"
    cuts: dict[str, int] = {}
    """what a time limit or Ctrl-C cut: steps after which a fit ended, by "CANDIDATE/PART"; "folds": how many were done;
    "refit": 0 where there was no time for it. A resolved config repeats its cuts"""


class Stage(Settings):
    """A stretch of pretraining: what it changes."""

    settings: dict[str, Any] = {}
    """of the objective"""
    training: dict[str, Any] = {}
    """fields of Training"""


class Pretraining(Settings):
    """A pretraining run: its stages one after the other, each going on from the weights of the one before."""

    objective: str
    data: str = ""
    """a file, or a folder of them; "": the objective makes its own"""
    inputs: tuple[str, ...] = ()
    """the columns to learn from; empty: the one that fits"""
    encoding: str = ""
    """of text files; "" detects it"""
    backbone: str | dict[str, str] = ""
    """a reference: bert, gpt, vit, hf:FOLDER to go on from, …; where two are trained together, one for each modality"""
    backbone_settings: dict[str, Any] = {}
    """width, layers, heads, vocab_size, …; where there are two backbones, by modality"""
    settings: dict[str, Any] = {}
    """of the objective, in every stage"""
    training: Training = Training()
    stages: tuple[Stage, ...] = (Stage(),)
    evaluate_every: int = Field(500, ge=1)
    """steps between two looks at held-out data"""
    seed: int = 0

    def stage_training(self, stage: Stage, suited: Mapping[str, Any] | None = None) -> Training:
        """The Training of a stage, over what suits its objective. Raises MainstemError for a wrong field."""
        asked = {**self.training.model_dump(mode="json", exclude_unset=True), **stage.training}
        kept = {name: value for name, value in (suited or {}).items() if name != "epochs" or "steps" not in asked}
        return parse(Training, {**kept, **asked}, "stages.training")


# Names of the hub's trainer that people know.
HUB_NAMES = {
    "learning_rate": "training.lr",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.steps",
    "per_device_train_batch_size": "training.batch_size",
    "train_batch_size": "training.batch_size",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.clip",
    "lr_scheduler_type": "training.schedule",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "optim": "training.optimizer",
    "group_by_length": "training.group_by_length",
    "label_smoothing_factor": "task_settings.label_smoothing",
}


def build(tree: Mapping[str, Any], where: str = "") -> Config:
    """A tree of plain values → a Config. Raises one MainstemError that names every wrong field."""
    renamed: dict[str, Any] = {}
    for key, value in tree.items():
        _put(renamed, HUB_NAMES.get(key, key), value) if key in HUB_NAMES else _merge(renamed, {key: value})
    return parse(Config, renamed, where)


def parse(model: type[M], tree: Mapping[str, Any], where: str = "") -> M:
    """A tree of plain values → settings of one kind. Raises one MainstemError that names every wrong field."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise MainstemError("; ".join(_explain(e, model) for e in error.errors()), where=where) from None


def read(path: Path | str) -> dict[str, Any]:
    """The tree of a YAML file. Raises MainstemError where it is not a mapping or not YAML."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise MainstemError("there is no such config file", where=str(path)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MainstemError(f"this is not a readable YAML file: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(tree, dict):
        raise MainstemError("a config is a mapping of fields to values", where=str(path), do="Start from the config.yaml of a run.")
    return tree


def write(path: Path | str, config: Settings) -> None:
    """The config as YAML, fields that stand at their default left out."""
    files.write_text(path, yaml.safe_dump(dump(config), allow_unicode=True, sort_keys=False))


def dump(config: Settings) -> dict[str, Any]:
    """The config as a tree of plain values."""
    tree: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=True)
    return tree


def overlay(tree: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with {"training.lr": 0.1, …} set in it; the input is not changed."""
    result: dict[str, Any] = {}
    _merge(result, tree)
    for path, value in assignments.items():
        _put(result, path, value)
    return result


def assignment(text: str) -> tuple[str, Any]:
    """ "training.lr=0.1" → ("training.lr", 0.1); the value is read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise MainstemError(f"--set takes path=value, not '{text}'", do="For example --set training.lr=0.01.")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return path.strip(), value


def _merge(into: dict[str, Any], tree: Mapping[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise MainstemError(f"'{path}' leads through '{key}', which is no group of fields")
        tree[key] = tree = dict(child)
    tree[last] = value


def _fields(model: type[BaseModel], where: tuple[Any, ...]) -> Iterator[str]:
    """The fields known at the place, within `model`, where an unknown one was met."""
    for key in where:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not inner:
            return
        model = inner[0]
    yield from model.model_fields


def _explain(error: Any, model: type[BaseModel]) -> str:
    """One wrong field in one sentence."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown field '{place}'. {suggest(str(error['loc'][-1]), _fields(model, error['loc'][:-1]))}".rstrip(".")
    return f"field '{place}': {error['msg'][0].lower()}{error['msg'][1:]}, found {error['input']!r}"

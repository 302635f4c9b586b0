"""The plan: which candidates fit the data. It depends on the data and the config alone, never on time or luck."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mainstem import registry
from mainstem.config import Candidate, Config, InputSettings, Training
from mainstem.data.kinds import TASKS
from mainstem.errors import MainstemError, MissingExtra
from mainstem.schema import TABULAR, Schema
from mainstem.training.fitting import describe, modality_of, predictor_of
from mainstem.training.preparing import Prepared

# What a family trains well with, where nothing else is asked for.
TRAINING: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "batch_size": 128, "epochs": 100, "patience": 12, "clip": 1.0},
    "ngram": {"optimizer": "adam", "lr": 6e-3, "schedule": "cosine", "batch_size": 64, "epochs": 4, "patience": 2},
    "gpt": {
        "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-1, "schedule": "cosine", "batch_size": 16, "epochs": 10, "patience": 2,
        "warmup": 0.05, "clip": 1.0, "group_by_length": True,
    },
    "linear": {"optimizer": "adam", "lr": 1e-2, "batch_size": 128, "epochs": 200, "patience": 20},
    "cnn": {"optimizer": "adamw", "lr": 3e-3, "schedule": "cosine", "batch_size": 64, "epochs": 15},
    "probe": {"optimizer": "lbfgs", "batch_size": "full", "epochs": 100, "tol": 1e-4},  # convex: nothing to stop early
    "lora": {
        "optimizer": "adamw", "lr": 5e-4, "schedule": "cosine", "batch_size": 32, "epochs": 3, "patience": 2, "warmup": 0.06, "clip": 1.0,
        "group_by_length": True,
    },
    "full": {
        "optimizer": "adamw", "lr": 5e-5, "weight_decay": 1e-2, "schedule": "cosine", "batch_size": 32, "epochs": 3, "patience": 2,
        "warmup": 0.06, "clip": 1.0, "group_by_length": True,
    },
    "gru_series": {
        "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-2, "schedule": "cosine", "batch_size": 64, "epochs": 12, "patience": 3,
        "clip": 1.0,
    },
    "cnn_series": {
        "optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "schedule": "cosine", "batch_size": 32, "epochs": 60, "patience": 15,
        "clip": 1.0,
    },
    "fusion": {"optimizer": "adam", "lr": 6e-3, "schedule": "cosine", "batch_size": 64, "epochs": 6, "patience": 2},
    "scratch": {
        "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "schedule": "cosine", "batch_size": 64, "epochs": 30, "patience": 6,
        "warmup": 0.05, "clip": 1.0, "group_by_length": True,
    },
}  # fmt: skip
# Steps before which little is learned, whatever the data (docs/log.md): few rows are passed more often, though not without end.
LEAST, MOST_PASSES = {"ngram": 400, "fusion": 400}, 40
SCRATCH = {"table": "mlp", "text": "ngram", "image": "cnn"}  # networks that need nothing brought along, by modality
IN_CONTEXT = 2000  # rows up to which the in-context network is tried unasked: its strength is few rows, its cost grows with them
# What is compared on series by task, the simplest first, as far as it is there: families NAME_series.
SERIES = {
    "forecasting": ("naive", "incontext", "linear", "trees", "gru"),
    "classification": ("kernels", "statistics", "cnn"),
    "anomaly": ("neighbours",),
}
PREDICTED = {"anomaly": "neighbours"}  # tasks that a predictor of tables does, and no network
PROBE_L2 = (1e-1, 1e-2, 1e-3)  # the simplest first


def candidates(config: Config, prepared: Prepared) -> tuple[tuple[Candidate, ...], list[str]]:
    """The candidates to compare, the cheapest first, and notes on what they leave out.

    Raises MainstemError where parts do not go together.
    """
    if config.candidates:
        return config.candidates, []
    schema = prepared.schema
    groups: Mapping[str, Sequence[str]] = {role: [c] for role, c in prepared.roles.items()} or _modalities(schema)
    modalities = {name: modality_of(columns, schema) for name, columns in groups.items()}
    given = _given(config, modalities)
    _check_extras(given)
    _check_adapt(config, given)
    if set(groups) == {"series"} and prepared.name in SERIES:
        made = _for_series(prepared.name, given, groups["series"], config)
    elif prepared.name in PREDICTED:
        made = _predicted(prepared.name, given, groups, config)
    elif prepared.name not in TASKS.values():
        made = _for_task(prepared, given, groups, modalities, config)
    elif set(groups) == {"table"}:
        made = _for_table(given, groups, config, prepared)
    else:
        made = _for_others(given, groups, config, prepared)
    made = _without_rows(made, config)
    if not made:
        raise MainstemError(
            "no candidate fits these columns", do="Name a backbone: --backbone MODALITY=REF; `mainstem list backbones` shows them."
        )
    _check_installed(made)
    return tuple(_with_given_training(c, config.training) for c in _told_apart(made)), _left_out(made, groups)


def _without_rows(made: Sequence[Candidate], config: Config) -> list[Candidate]:
    """The candidates, without those that would keep training rows in a model that is to hold none."""
    if config.replay != "hashes":
        return list(made)
    keeping = [c for c in made if any(describe(each, c.training).holds_rows for each in c.inputs if each.backbone)]
    if keeping and config.backbones:
        raise MainstemError(
            f"the backbone '{keeping[0].name}' keeps training rows in the model, and --replay hashes asks for none of the data in it",
            do="Leave out one of the two.",
        )
    return [c for c in made if c not in keeping]


def _told_apart(made: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, each with a name of its own: folders of one name get numbers."""
    told: dict[str, Candidate] = {}
    for candidate in made:
        names = [candidate.name, *(f"{candidate.name} #{i}" for i in range(2, len(made) + 1))]
        name = next(name for name in names if name not in told)
        told[name] = candidate.model_copy(update={"name": name})
    return list(told.values())


def _modalities(schema: Schema) -> dict[str, list[str]]:
    """Input name → its columns: one `table` for numbers, categories and dates, one input for each other column."""
    groups: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for column in schema.columns:
        if column.kind in TABULAR:
            groups.setdefault("table", []).append(column.name)
            continue
        counts[column.kind] = counts.get(column.kind, 0) + 1
        groups[column.kind + (str(counts[column.kind]) if counts[column.kind] > 1 else "")] = [column.name]
    return groups


def _modality(name: str) -> str:
    return name.rstrip("0123456789")


def _given(config: Config, modalities: Mapping[str, str]) -> dict[str, list[str]]:
    """The backbones asked for, by input name. Raises MainstemError where one reads nothing that is there."""
    given: dict[str, list[str]] = {}
    for text in config.backbones:
        head, equals, ref = text.partition("=")
        named = bool(equals) and (head in modalities or head in modalities.values())
        ref = ref if named else text
        if set(modalities.values()) == {"series"} and f"{ref}_series".replace("-", "_") in registry.names("backbones"):
            ref = f"{ref}_series".replace("-", "_")  # linear, trees, gru of series
        modality = describe(InputSettings(name="x", columns=(), backbone=ref), config.training).modality
        places = [name for name, held in modalities.items() if (head in (name, held) if named else held == modality)]
        if not places:
            held = ", ".join(sorted(set(modalities.values())))
            raise MainstemError(
                f"the backbone '{ref}' reads {modality}, and the data holds {held}", do="Declare the column with --column NAME=KIND."
            )
        for name in places:
            if modalities[name] != modality:
                raise MainstemError(
                    f"the backbone '{ref}' reads {modality}, not {modalities[name]}", do=f"For example --backbone {modality}={ref}."
                )
            given.setdefault(name, []).append(ref)
    return given


def _check_extras(given: Mapping[str, Sequence[str]]) -> None:
    """A brought backbone without PyTorch is named at once, not after the first candidates."""
    for refs in given.values():
        for ref in refs:
            module = registry.load("backbones", registry.resolve(ref).family)
            if not hasattr(module, "predictor") and not has_torch():
                raise MissingExtra(f"the backbone '{ref}'", "train", "PyTorch")


def _check_installed(made: Sequence[Candidate]) -> None:
    """What the candidates need is missed before the run's folder is made."""
    for candidate in made:
        for each in candidate.inputs:
            extra = describe(each, candidate.training).extra if each.backbone else ""
            if extra in LIBRARIES and not _has(LIBRARIES[extra]):
                raise MissingExtra(f"the backbone '{each.backbone}'", extra, LIBRARIES[extra])


def _check_adapt(config: Config, given: Mapping[str, Sequence[str]]) -> None:
    """Raise where a backbone is to be adapted and none has anything learned to keep."""
    refs = [ref for held in given.values() for ref in held]
    if config.adapt in ("probe", "lora") and not any(_is_pretrained(ref) for ref in refs):
        named = f"'{refs[0]}' is trained from scratch" if refs else "no backbone is named"
        raise MainstemError(
            f"--adapt {config.adapt} keeps what a pretrained backbone has learned, and {named}",
            do="Leave it out, or bring a backbone with weights: --backbone hf:FOLDER.",
        )


LIBRARIES = {"train": "torch", "tables": "sklearn"}  # what an extra brings that cannot be done without


def has_torch() -> bool:
    """Whether networks can be trained here."""
    return _has("torch")


def _has(library: str) -> bool:
    return sys.modules[library] is not None if library in sys.modules else importlib.util.find_spec(library) is not None


def _for_task(
    prepared: Prepared,
    given: Mapping[str, Sequence[str]],
    groups: Mapping[str, Sequence[str]],
    modalities: Mapping[str, str],
    config: Config,
) -> list[Candidate]:
    """One candidate for any task: each input with the backbone asked for, else the task's own, else the one that fits its modality."""
    task, inputs = prepared.task, []
    for name, columns in groups.items():
        modality = modalities[name]
        refs = given.get(name) or [task.backbones.get(name, task.backbones.get(modality, SCRATCH.get(modality, "")))]
        processor = task.processors.get(name, task.processors.get(modality, {}))
        adapts = [config.adapt or (task.adapt if ref and _is_pretrained(ref) else "") for ref in refs]
        made = [_input(name, i, columns, ref, adapt) for i, (ref, adapt) in enumerate(zip(refs, adapts, strict=True))]
        inputs += [each.model_copy(update={"processor": dict(processor)}) for each in made]
    read = [each for each in inputs if each.backbone]
    name = " + ".join(_label(each) for each in read) or prepared.name
    return [Candidate(name=name, inputs=tuple(inputs), training=_training(_key(read)))]


def _for_table(
    given: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[str]], config: Config, prepared: Prepared
) -> list[Candidate]:
    in_context = prepared.name != "labels" and len(prepared.table) <= IN_CONTEXT
    own = ["linear", "blend", *(["incontext"] if in_context else []), *(["mlp"] if has_torch() else [])]
    refs = list(given.get("table", ())) or own
    made = []
    for ref in refs:
        each = InputSettings(name="table", columns=tuple(groups["table"]), backbone=ref)
        network = predictor_of(each, config.training) is None
        training = _training(ref if ref in TRAINING else "scratch") if network else Training()
        made.append(Candidate(name=_label(each), inputs=(each,), training=training))
    return made


def _predicted(task: str, given: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[str]], config: Config) -> list[Candidate]:
    """Predictors over the table, or a brought backbone over the one other input. Raises MainstemError where there is neither."""
    brought = [(name, ref) for name, refs in given.items() for ref in refs if name != "table" and _is_pretrained(ref)]
    if "table" not in groups and len(groups) == 1 and brought:
        inputs = [InputSettings(name=name, columns=tuple(groups[name]), backbone=ref, adapt="probe") for name, ref in brought]
        return [Candidate(name=_label(each), inputs=(each,), training=_training("probe")) for each in inputs]
    refs = list(given.get("table", ())) or [PREDICTED[task]]
    made = [InputSettings(name="table", columns=tuple(groups.get("table", ())), backbone=ref) for ref in refs]
    if "table" not in groups or any(predictor_of(each, config.training) is None for each in made):
        raise MainstemError(
            f"the task {task} reads numbers, categories and dates by '{PREDICTED[task]}', series, or one column of pictures or texts",
            do="For those, bring a backbone with weights: --backbone timm:FOLDER or hf:FOLDER.",
        )
    return [Candidate(name=each.backbone, inputs=(each,)) for each in made]


def _for_series(task: str, given: Mapping[str, Sequence[str]], columns: Sequence[str], config: Config) -> list[Candidate]:
    """Predictors and networks over the one series input; those that are not there, or whose library is not, are left out."""
    known = registry.names("backbones")
    refs = list(given.get("series", ())) or [f"{name}_series" for name in SERIES[task] if f"{name}_series" in known]
    made = []
    for ref in refs:
        each = InputSettings(name="series", columns=tuple(columns), backbone=ref)
        network = predictor_of(each, config.training) is None
        if network and not given and not has_torch():
            continue
        family = registry.resolve(ref).family
        training = _training(family if family in TRAINING else "scratch") if network else Training()
        made.append(
            Candidate(name=ref.replace("incontext_series", "incontext-series").removesuffix("_series"), inputs=(each,), training=training)
        )
    return made


def _for_others(
    given: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[str]], config: Config, prepared: Prepared
) -> list[Candidate]:
    """Data with text or pictures: networks over every input, each with the choices that fit its modality."""
    made: list[Candidate] = []
    if "table" in groups and not given:
        made += [c for c in _for_table({}, groups, config, prepared) if c.name in ("linear", "blend")]
    if not has_torch():
        return made
    choices = {name: _choices(name, given.get(name, ()), config) for name in groups}
    main = next((name for name in groups if name != "table" and given.get(name)), next(name for name in groups if name != "table"))
    for choice in choices[main]:
        inputs: list[InputSettings] = []
        for name, columns in groups.items():
            picked = choice if name == main else _matching(choices[name], choice)
            inputs += [_input(name, i, columns, ref, adapt) for i, (ref, adapt) in enumerate(picked)]
        made += _trained(inputs, config, len(prepared.parts["train"]))
    return made


Choice = tuple[tuple[str, str], ...]  # backbones read side by side, each with how it is adapted


def _choices(name: str, given: Sequence[str], config: Config) -> list[Choice]:
    """The ways to read one input: from scratch, by each brought backbone, and by both together."""
    modality = _modality(name)
    scratch = SCRATCH.get(modality, "")
    pretrained = [ref for ref in given if _is_pretrained(ref)]
    own: list[Choice] = [((ref, "full"),) for ref in given if ref not in pretrained]
    brought: list[Choice] = [((ref, config.adapt or "probe"),) for ref in pretrained]
    if own or config.adapt:
        return [*own, *brought] or [((scratch, "full"),)]
    made: list[Choice] = [((scratch, "full"),)] if modality != "image" or not pretrained else []
    made += brought
    if modality == "text":
        made += [(("ngram", "full"), (ref, "probe")) for ref in pretrained]
    return made


def _is_pretrained(ref: str) -> bool:
    return describe(InputSettings(name="x", columns=(), backbone=ref), Training()).pretrained


def _matching(choices: Sequence[Choice], like: Choice) -> Choice:
    """For another input, the choice most like the main one's: a frozen backbone beside a frozen backbone."""
    return next((c for c in choices if c[-1][1] == like[-1][1]), choices[0])


def _input(name: str, place: int, columns: Sequence[str], ref: str, adapt: str) -> InputSettings:
    return InputSettings(name=name if not place else f"{name}-{place + 1}", columns=tuple(columns), backbone=ref, adapt=adapt)  # type: ignore[arg-type]


def _trained(inputs: Sequence[InputSettings], config: Config, rows: int) -> list[Candidate]:
    """A candidate over these inputs with the training that suits so many rows; a probe alone is tried at several strengths of l2."""
    kinds = {each.adapt for each in inputs}
    name = " + ".join(_label(each) for each in inputs)
    # beside a network that learns with it, a frozen feature is best left as it is (docs/log.md)
    head = {"standardize": [each.name for each in inputs]} if kinds == {"probe"} else {}
    if kinds == {"probe"} and config.training.optimizer in ("", "lbfgs"):
        strengths = (config.training.l2,) if config.training.l2 else PROBE_L2
        return [
            Candidate(name=f"{name} (l2 {l2:g})", inputs=tuple(inputs), training=_training("probe", l2=l2), head=head) for l2 in strengths
        ]
    return [Candidate(name=name, inputs=tuple(inputs), training=_training(_key(inputs), rows), head=head)]


def _key(inputs: Sequence[InputSettings]) -> str:
    """Which training suits networks over these inputs."""
    kinds = {each.adapt for each in inputs}
    if "lora" in kinds or any(each.adapt == "full" and _is_pretrained(each.backbone) for each in inputs):
        return "lora" if "lora" in kinds else "full"
    if len(inputs) > 1:
        return "fusion"
    families = [registry.resolve(each.backbone).family for each in inputs]
    return families[0] if families and families[0] in TRAINING else "scratch"


def _label(each: InputSettings) -> str:
    ref = registry.resolve(each.backbone)
    short = f"{ref.family}:{ref.folder.name}" if ref.folder else ref.text  # a model goes to other machines: no path of this one
    return f"{short} {each.adapt}" if _is_pretrained(each.backbone) else short


def _training(key: str, rows: int = 0, **more: Any) -> Training:
    """What suits a family. rows: how many there are to learn from, where their number matters."""
    suited = {**TRAINING[key], **more}
    if key in LEAST and rows:
        passes = min(MOST_PASSES, -(-LEAST[key] // -(-rows // suited["batch_size"])))
        if passes > suited["epochs"]:
            suited |= {"epochs": passes, "patience": max(suited["patience"], passes // 3)}
    return Training(**suited)


def _with_given_training(candidate: Candidate, given: Training) -> Candidate:
    """What the user set wins over what the plan proposes. Epochs, steps or tol that are asked for are not cut by the plan's patience."""
    asked = given.model_dump(exclude_defaults=True)
    proposed = candidate.training.model_dump(exclude_defaults=True)
    if "optimizer" in asked and asked["optimizer"] != proposed.get("optimizer"):
        kept = ("epochs", "patience", "group_by_length", *(["clip"] if asked["optimizer"] != "lbfgs" else []))
        proposed = {k: v for k, v in proposed.items() if k in kept}
    if {"epochs", "steps"} & asked.keys():
        proposed = {k: v for k, v in proposed.items() if k not in ("epochs", "patience")}
    if asked.get("optimizer") == "gd":
        proposed = {"epochs": 1000, "tol": 1e-8, "log_every": 100} | {k: v for k, v in proposed.items() if k == "epochs"}
    return candidate.model_copy(update={"training": Training(**{**proposed, **asked})})


def _left_out(made: Sequence[Candidate], groups: Mapping[str, Sequence[str]]) -> list[str]:
    notes = []
    for candidate in made:
        read = {column for each in candidate.inputs for column in each.columns}
        missed = [column for columns in groups.values() for column in columns if column not in read]
        if missed:
            listed = ", ".join(f"'{c}'" for c in missed)
            notes.append(f"{candidate.name} reads the table columns only, not {listed}")
    return notes

"""`mainstem train DATA --target COLUMN`."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from typer import Argument, Option

from mainstem.cli import INTERRUPTED, note
from mainstem.errors import MainstemError

_DATA, _MODEL, _TRAINING, _RUN = "Data", "Model", "Training", "Run"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def command(
    data: Annotated[str, Argument(metavar="DATA", help="CSV, TSV, JSONL, Parquet, XLSX, or a folder of class folders of pictures")] = "",
    target: Annotated[
        list[str] | None, Option(metavar="COL", help="what to predict; several yes/no columns make labels", rich_help_panel=_DATA)
    ] = None,
    inputs: Annotated[
        list[str] | None, Option("--input", metavar="COL", help="a column to learn from; default: all others", rich_help_panel=_DATA)
    ] = None,
    column: Annotated[
        list[str] | None, Option(metavar="NAME=KIND", help="number, category, date, text, image", rich_help_panel=_DATA)
    ] = None,
    valid: Annotated[str | None, Option(metavar="DATA", help="rows for validation; default: drawn", rich_help_panel=_DATA)] = None,
    test: Annotated[str | None, Option(metavar="DATA", help="rows for the test; default: drawn", rich_help_panel=_DATA)] = None,
    group: Annotated[str | None, Option(metavar="COL", help="its rows stay together in every split", rich_help_panel=_DATA)] = None,
    time: Annotated[str | None, Option(metavar="COL", help="the last rows by this column are the test", rich_help_panel=_DATA)] = None,
    series: Annotated[
        str | None, Option(metavar="COL", help="which rows make one series; default with --horizon: all", rich_help_panel=_DATA)
    ] = None,
    horizon: Annotated[int | None, Option(metavar="N", help="forecast so many steps", rich_help_panel=_DATA)] = None,
    window: Annotated[int | None, Option(metavar="N", help="steps of history a model of series sees", rich_help_panel=_DATA)] = None,
    season: Annotated[int | None, Option(metavar="N", help="steps after which a series repeats", rich_help_panel=_DATA)] = None,
    future: Annotated[
        list[str] | None, Option(metavar="COL", help="a covariate of a forecast that is known in advance", rich_help_panel=_DATA)
    ] = None,
    separator: Annotated[str | None, Option(metavar="S", help="between several labels in a cell", rich_help_panel=_DATA)] = None,
    encoding: Annotated[str | None, Option(metavar="E", help="of a text file; default: detected", rich_help_panel=_DATA)] = None,
    class_weight: Annotated[str | None, Option(metavar="balanced", help="even out rare and common classes", rich_help_panel=_DATA)] = None,
    allow_leak: Annotated[bool, Option("--allow-leak", help="go on in spite of a certain leak", rich_help_panel=_DATA)] = False,
    task: Annotated[
        str | None, Option(metavar="T", help="`mainstem list tasks`; default: what the target asks for", rich_help_panel=_MODEL)
    ] = None,
    backbone: Annotated[
        list[str] | None, Option(metavar="REF", help="or MODALITY=REF; `mainstem list backbones`", rich_help_panel=_MODEL)
    ] = None,
    adapt: Annotated[
        str | None, Option(metavar="probe|lora|full", help="how a backbone that was brought is adapted", rich_help_panel=_MODEL)
    ] = None,
    epochs: Annotated[int | None, Option(metavar="N", rich_help_panel=_TRAINING)] = None,
    steps: Annotated[int | None, Option(metavar="N", rich_help_panel=_TRAINING)] = None,
    batch_size: Annotated[str | None, Option(metavar="N|full", rich_help_panel=_TRAINING)] = None,
    lr: Annotated[str | None, Option(metavar="X|auto", help="auto: by a range test", rich_help_panel=_TRAINING)] = None,
    optimizer: Annotated[str | None, Option(metavar="NAME", help="gd, sgd, momentum, adam, adamw, …", rich_help_panel=_TRAINING)] = None,
    schedule: Annotated[
        str | None, Option(metavar="NAME", help="constant, step, cosine, warmup, plateau, one-cycle", rich_help_panel=_TRAINING)
    ] = None,
    tol: Annotated[
        float | None, Option(metavar="X", help="stop once the loss changes by less than this share", rich_help_panel=_TRAINING)
    ] = None,
    patience: Annotated[int | None, Option(metavar="N", help="stop after N epochs without improvement", rich_help_panel=_TRAINING)] = None,
    time_limit: Annotated[str | None, Option(metavar="T", help="60s, 5m, 1h: of the whole run", rich_help_panel=_TRAINING)] = None,
    seed: Annotated[int | None, Option(metavar="N", rich_help_panel=_RUN)] = None,
    replay: Annotated[
        str | None, Option(metavar="full|hashes", help="hashes: the model holds none of the data", rich_help_panel=_RUN)
    ] = None,
    out: Annotated[str, Option("-o", "--out", metavar="RUN", help="the run folder; default: runs/NAME", rich_help_panel=_RUN)] = "",
    resume: Annotated[bool, Option("--resume", help="go on with an unfinished run", rich_help_panel=_RUN)] = False,
    config: Annotated[
        str, Option("-c", "--config", metavar="FILE", help="the config.yaml of a run; flags win over it", rich_help_panel=_RUN)
    ] = "",
    assignments: Annotated[
        list[str] | None, Option("--set", metavar="A.B=VALUE", help="any field of the config", rich_help_panel=_RUN)
    ] = None,
) -> int:
    """Train, evaluate and seal a model. Kinds, task and candidates are inferred; what was inferred is said."""
    given = {
        "inputs": inputs, "columns": _columns(column or []), "valid": valid, "test": test, "group": group, "time": time,
        "series": series, "horizon": horizon, "window": window, "season": season, "future": future,
        "separator": separator, "encoding": encoding, "class_weight": class_weight, "allow_leak": allow_leak or None, "task": task,
        "backbones": backbone, "adapt": adapt, "epochs": epochs, "steps": steps, 
        "batch_size": _number_or(batch_size, "full", "--batch-size"),
        "lr": _number_or(lr, "auto", "--lr"), "optimizer": optimizer, "schedule": schedule, "tol": tol, "patience": patience,
        "time_limit": _seconds(time_limit), "seed": seed, "replay": replay,
    }  # fmt: skip
    settings = {**{name: value for name, value in given.items() if value is not None}, **assigned(assignments or [])}
    return run(data, target or [], settings, out, config, resume)


def run(data: str, target: Sequence[str], settings: Mapping[str, Any], out: str, config: str, resume: bool) -> int:
    """Train with a bar, notes on standard error, and on standard output how good the model is and what comes next."""
    from mainstem import api
    from mainstem.training.run import Stop

    stop = Stop()
    reporter = _Reporter()
    with interruptible(stop), reporter:
        made = api.train(
            data or None,
            target,
            out=out or None,
            config=config or None,
            resume=resume,
            say=reporter.say,
            report=reporter,
            stop=stop,
            **settings,
        )
    print(summary(made.path, made.chosen, made.report, data, settings.get("test") or data))
    if made.interrupted:
        note("interrupted: the model is the best so far")
    return INTERRUPTED if made.interrupted else 0


# --- flags ------------------------------------------------------------------------------------------------------------


def rewrite(arguments: Sequence[str]) -> list[str]:
    """The hub's names of training settings (--learning_rate 0.1, --num-train-epochs=3) as --set PATH=VALUE."""
    from mainstem.config import HUB_NAMES

    result: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        path = HUB_NAMES.get(name[2:].replace("-", "_")) if name.startswith("--") else None
        if path is None:
            result.append(argument)
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise MainstemError(f"{name} takes a value")
        result += ["--set", f"{path}={value}"]
    return result


def _columns(pairs: Sequence[str]) -> dict[str, str] | None:
    kinds = {}
    for pair in pairs:
        name, equals, kind = pair.rpartition("=")
        if not equals or not name:
            raise MainstemError(f"--column takes NAME=KIND, not '{pair}'", do="For example --column zip=category.")
        kinds[name] = kind
    return kinds or None


def _number_or(text: str | None, word: str, flag: str) -> float | int | str | None:
    if text is None or text == word:
        return text
    try:
        return int(text) if flag == "--batch-size" else float(text)
    except ValueError:
        raise MainstemError(f"{flag} takes a number or '{word}', not '{text}'") from None


def _seconds(text: str | None) -> float | None:
    """ "90", "90s", "5m", "1.5h" → seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().casefold())
    if not match:
        raise MainstemError(f"--time-limit takes a time such as 60s, 5m or 1h, not '{text}'")
    return float(match[1]) * _UNITS[match[2]]


def assigned(texts: Sequence[str]) -> dict[str, Any]:
    """The values of --set by path."""
    from mainstem.config import assignment

    return dict(assignment(text) for text in texts)


# --- while it runs ----------------------------------------------------------------------------------------------------


@contextmanager
def interruptible(stop: Any, told: str = "stopping: the best so far is being sealed (once more stops at once)") -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the training and keeps what there is, as `told`; a second one ends everything at once."""

    def handle(number: int, frame: Any) -> None:
        if stop.interrupted:
            raise KeyboardInterrupt
        stop.interrupted = True
        note(told)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Reporter:
    """What a run tells: notes between the bars, one bar for each fit."""

    def __init__(self) -> None:
        self.name = ""
        self.bar: Any = None

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._switch("")

    def say(self, text: str) -> None:
        """A sentence of the run; the choice is printed with the results."""
        self._switch("")
        if not text.startswith("Chosen: "):
            note(text)

    def __call__(self, figures: Mapping[str, Any]) -> None:
        """Figures of one step or epoch, or of features that are being computed."""
        if "warning" in figures:
            self.say(str(figures["warning"]))
        elif "features" in figures:
            self._switch(f"{figures.get('candidate', '')} features", figures["of"])
            self.bar.step(figures["features"], float("nan"), figures["rows"])
        else:
            part = figures.get("part")
            lines = figures.get("log_every") if part == "refit" else None
            self._switch(f"{figures.get('candidate', '')} {part if part == 'refit' else f'fold {part}'}", figures.get("total"), lines)
            if figures.get("ended"):
                name = "loss (½·MSE in standardised units)" if figures.get("of") == "mse" else "loss"
                self.bar.epoch(figures["epoch"], {name: figures["loss"], "valid": figures.get("valid")})
            else:
                self.bar.step(figures["step"], figures.get("loss", float("nan")), figures["rows"])

    def _switch(self, name: str, total: int | None = None, log_every: int | None = None) -> None:
        if name == self.name:
            return
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
        self.name, self.bar = name, None
        if name:
            from mainstem.training.progress import Progress

            self.bar = Progress(name, total, log_every=log_every).__enter__()


# --- when it is done --------------------------------------------------------------------------------------------------


def summary(path: Any, chosen: str, report: Mapping[str, Any], data: str, test: str) -> str:
    """The choice, the figures on unseen rows, where everything lies, and the three commands that come next."""
    from mainstem.evaluation.report import table

    where, name = shlex.quote(str(path)), re.sub(r"[^a-z0-9._-]+", "-", path.name.lower()).strip("-._") or "model"
    part = {"test": "test part", "valid": "validation part (there is no test part)"}.get(str(report.get("part")), "test part")
    next_ones = [
        f"mainstem evaluate {where} {shlex.quote(test) if test else 'DATA'}",
        f"mainstem predict {where} {shlex.quote(data) if data else 'DATA'} -o predictions.csv",
        f"mainstem serve {name}={where}",
    ]
    return "\n".join(
        [
            chosen,
            "",
            f"On the {part}: {table(dict(report))}",
            "",
            f"Sealed: {path}/model (config, log and report beside it)",
            "",
            "Next:",
            *(f"  {line}" for line in next_ones),
        ]
    )

"""`mainstem inspect DATA|MODEL|RUN|CONFIG`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from mainstem.cli import note


def command(
    path: Annotated[str, Argument(metavar="DATA|MODEL|RUN|CONFIG")],
    target: Annotated[list[str] | None, Option(metavar="COL", help="of data: show the task, the candidates and leaks as well")] = None,
    task: Annotated[str | None, Option(metavar="T", help="of data, as with train, and so the next ones")] = None,
    group: Annotated[str | None, Option(metavar="COL")] = None,
    time: Annotated[str | None, Option(metavar="COL")] = None,
    series: Annotated[str | None, Option(metavar="COL")] = None,
    horizon: Annotated[int | None, Option(metavar="N")] = None,
    window: Annotated[int | None, Option(metavar="N")] = None,
    season: Annotated[int | None, Option(metavar="N")] = None,
) -> None:
    """What it is, what mainstem would do with it, and what looks wrong."""
    from mainstem import artifact

    folder = Path(path)
    if (folder / artifact.CONTENTS).is_file() or (folder / "model" / artifact.CONTENTS).is_file():
        _model(artifact.find(folder))
    elif (folder / "config.yaml").is_file() and (folder / "split.json").is_file():
        _unfinished(folder)
    elif (folder / "config.yaml").is_file() and (folder / "asked.json").is_file():
        _pretraining(folder / "config.yaml")
    elif folder.suffix in (".yaml", ".yml"):
        _pretraining(folder)
    else:
        given = {"task": task, "group": group, "time": time, "series": series, "horizon": horizon, "window": window, "season": season}
        _data(path, target or [], {name: value for name, value in given.items() if value is not None})


# --- data -------------------------------------------------------------------------------------------------------------


def _data(path: str, targets: Sequence[str], given: Mapping[str, Any]) -> None:
    from mainstem.data import kinds, sources
    from mainstem.schema import is_missing

    rows = sources.read(path)
    print(f"{path}: {len(rows):,} rows, {len(rows.columns)} columns")
    for told in rows.notes:
        print(f"  {told}")
    lines = [["column", "kind", "missing", "distinct", "for example"]]
    for name, cells in rows.columns.items():
        known = [cell for cell in cells if not is_missing(cell)]
        missing = f"{1 - len(known) / max(1, len(cells)):.1%}"
        kind = kinds.kind_of(cells, rows.base, alone=len(rows.columns) == 1) or "none"
        lines.append([name, kind, missing if len(known) < len(cells) else "", f"{len(set(map(repr, known))):,}", _example(known)])
    print()
    _print_table(lines)
    print()
    if targets or given:
        _plan(path, targets, given)
    else:
        print("With --target COLUMN it also shows the task, the candidates and what looks wrong.")


def _example(cells: Sequence[Any]) -> str:
    text = " ".join(str(cells[0]).split()) if cells and not isinstance(cells[0], bytes) else ""
    return text if len(text) <= 30 else f"{text[:29]}…"


def _plan(path: str, targets: Sequence[str], given: Mapping[str, Any]) -> None:
    """What `train` would do, up to the first fit."""
    from mainstem import api
    from mainstem.training import plan, preparing

    config = api.configure(path, list(targets), None, {**given, "allow_leak": True})
    data = preparing.prepare(config)
    candidates, notes = plan.candidates(config, data)
    print(f"task: {data.name}{_of(t.name for t in data.schema.targets)}")
    print(f"rows: {', '.join(f'{len(rows):,} {part}' for part, rows in data.parts.items())}")
    print(f"candidates: {', '.join(c.name for c in candidates)}")
    for told in [*data.notes, *notes]:
        print(f"  {told}")
    print("what looks wrong: " + ("nothing was found" if not data.findings else ""))
    for finding in data.findings:
        print(f"  {finding}")


# --- models and runs --------------------------------------------------------------------------------------------------


def _model(folder: Path) -> None:
    from mainstem import artifact, files

    contents = artifact.read(folder)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{folder}: a model of format {artifact.FORMAT}, {size / 2**20:.1f} MiB")
    print(f"task: {contents.task}{_of(t.name for t in contents.schema.targets)}{_labels(contents.state.json.get('labels'))}")
    for each in contents.inputs:
        read_by = f" > {each.backbone}" + (f" ({each.adapt})" if each.adapt else "") if each.backbone else ""
        print(f"input {each.name} ({each.modality}){read_by}: {_listed(each.columns)}")
    if contents.predictor:
        print(f"predictor: {contents.predictor}")
    for name, spec in contents.graphs.items():
        print(f"graph {name}: weights {spec.weights_id[:12] or 'unnamed'}")
    _about(contents.about)
    _sealed(folder)
    wrong = files.broken(folder)
    print("what looks wrong: " + ("; ".join(wrong) if wrong else "nothing, every file is as it was sealed"))


def _of(targets: Iterable[str]) -> str:
    """ " of a, b"; nothing for a task without a target."""
    names = ", ".join(targets)
    return f" of {names}" if names else ""


def _labels(labels: Sequence[Any] | None) -> str:
    return f" ({_listed([str(label) for label in labels])})" if labels else ""


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _about(about: Mapping[str, Any]) -> None:
    if about.get("rows"):
        print("rows: " + ", ".join(f"{n:,} {part}" for part, n in about["rows"].items()))
    if about.get("chosen"):
        print(about["chosen"])
    if about.get("holds"):
        print(about["holds"])
    if about.get("compressed"):
        from mainstem.compress._model import describe

        print(describe(about["compressed"]))
    figures = {name: entry["value"] for name, entry in about.get("metrics", {}).items() if entry.get("value") is not None}
    if figures:
        print("measured: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def _sealed(folder: Path) -> None:
    try:
        seal = json.loads((folder / "seal.json").read_bytes())
    except (OSError, ValueError):
        print("sealed: no seal.json can be read")
        return
    worst = ", ".join(f"{stage} {size:.2g}" for stage, size in seal.get("worst", {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in seal.get("versions", {}).items())
    print(f"sealed: {seal.get('rows')} golden rows, worst differences: {worst}; with {versions}")


def _unfinished(folder: Path) -> None:
    """A run that has no model yet."""
    from mainstem import config

    settings = config.build(config.read(folder / "config.yaml"), str(folder / "config.yaml"))
    done = sorted(p.parent.parent.name for p in folder.glob("candidates/*/part-*/result.json"))
    print(f"{folder}: an unfinished run on {settings.data.path or 'a DataFrame'}")
    print(f"task: {settings.task}{_of(settings.data.targets)}")
    print(f"candidates: {', '.join(c.name for c in settings.candidates)}; fits done: {len(done)}")
    note("The same command with --resume goes on with it.")


# --- pretraining ------------------------------------------------------------------------------------------------------


def _pretraining(path: Path) -> None:
    """Whether a pretraining run fits this machine, and how long it will take."""
    from mainstem import api

    config, need = api.estimate(path)
    on = f" on {config.data}" if config.data else ""
    print(f"{path}: pretraining by {config.objective}{f' of {config.backbone}' if config.backbone else ''}{on}")
    print(f"parameters: {need.parameters:,}")
    parts = ", ".join(f"{name} {_size(size)}" for name, size in need.memory.items())
    print(f"memory: {_size(need.peak)} at its peak ({parts})")
    if need.step is None or need.seconds is None:
        print(f"what looks wrong: this does not fit, {_size(need.free)} are free")
        note("Take a smaller batch (training.batch_size), or parts of it (training.accumulate).")
        return
    print(f"time: {need.step:.3g} s a step, {need.steps:,} steps: {_duration(need.seconds)}, with this machine as busy as it is now")
    print(f"it fits: {_size(need.free)} are free")


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


# --- text -------------------------------------------------------------------------------------------------------------


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    """Cells in columns; full-width characters take two places."""
    from mainstem.evaluation.report import width

    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell + " " * (room - width(cell)) for cell, room in zip(line, widths, strict=True)).rstrip())

"""Row 4: a model folder that was altered by a single bit is refused before use, and the file is named."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import trials

import mainstem as ms
from mainstem import artifact, files, seal
from mainstem.errors import MainstemError
from mainstem.testing.faults import trial

PROMISE = "a model folder with a flipped bit, or a file cut, swapped, missing, added or linked, is refused before use and the file is named"
KINDS = ("table", "text", "pictures", "linear", "hashes", "frozen")


def models(folder, kinds=KINDS):
    """A sealed model folder of each kind."""
    cases = trials.cases(folder)
    several = cases["several"]
    cases["linear"] = {**several, "config": {"candidates": several["config"]["candidates"][:1]}}
    cases["hashes"] = {**cases["table"], "replay": "hashes"}
    if "frozen" in kinds:  # a pretrained backbone that is not trained, linked into the model
        trials.train(cases["pictures"], folder / "brought")
        frozen = trials.candidate(str(folder / "brought" / "model" / "backbones" / "image"), "image", ["image"])
        frozen["inputs"][0]["adapt"] = "probe"
        training = {"optimizer": "adam", "epochs": 2}
        cases["frozen"] = {**cases["pictures"], "config": {"candidates": [{**frozen, "training": training}]}}
    for kind in kinds:
        trials.train(cases[kind], folder / kind)
    return [folder / kind / "model" for kind in kinds]


def entries(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def flip(folder, names, rng):
    name = names[rng.integers(len(names))]
    data = bytearray((folder / name).read_bytes())
    place = rng.integers(len(data))
    data[place] ^= 1 << int(rng.integers(8))
    (folder / name).write_bytes(data)
    return name


def cut(folder, names, rng):
    name = names[rng.integers(len(names))]
    os.truncate(folder / name, int(rng.integers((folder / name).stat().st_size)))
    return name


def swap(folder, names, rng):
    """Two files of different contents change places."""
    a, b = rng.choice(names, 2, replace=False)
    first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
    if first == second:
        return flip(folder, names, rng)
    (folder / a).write_bytes(second)
    (folder / b).write_bytes(first)
    return a


def delete(folder, names, rng):
    name = names[rng.integers(len(names))]
    (folder / name).unlink()
    return name


def add(folder, names, rng):
    place = (folder / names[rng.integers(len(names))]).parent / f"more-{rng.integers(1000)}.json"
    place.write_bytes(b"{}")
    return place.relative_to(folder).as_posix()


def link(folder, names, rng):
    """A file gives way to a link to a copy of it elsewhere."""
    name = names[rng.integers(len(names))]
    os.replace(folder / name, folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    return name


def empty(folder, names, rng):
    name = names[rng.integers(len(names))]
    (folder / name).write_bytes(b"")
    return name


CORRUPTIONS = {flip: 0.6, cut: 0.12, swap: 0.08, delete: 0.08, add: 0.04, link: 0.04, empty: 0.04}


def attempt(whole, work, corrupt, rng):
    """Alter a copy and load it: "" where it was refused with the name, else what happened."""
    names = entries(whole)
    touched = corrupt(work, names, rng)
    try:
        ms.load(work)
    except MainstemError as error:
        named = touched in str(error) or files.MANIFEST in str(error)
        result = "" if named and "not as it was sealed" in str(error) else f"{touched}: {error}"
    except BaseException as error:
        result = f"{touched}: {type(error).__name__}: {error}"
    else:
        result = f"{touched}: it was loaded"
    return result


def mend(whole, work):
    """Make the copy whole again."""
    listed = entries(whole)
    for name in set(entries(work)) - set(listed):
        (work / name).unlink()
    for name in listed:
        source, target = whole / name, work / name
        if target.is_symlink() or not target.exists() or target.read_bytes() != source.read_bytes():
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)


def torment(count, whole, n, seed):
    """n corruptions of one model folder, each of a whole copy."""
    rng = np.random.default_rng(seed)
    work = whole.parent / "copy"
    shutil.copytree(whole, work)
    ms.load(work)
    made = dict.fromkeys((c.__name__ for c in CORRUPTIONS), 0)
    for _ in range(n):
        corrupt = rng.choice(list(CORRUPTIONS), p=list(CORRUPTIONS.values()))
        made[corrupt.__name__] += 1
        count(not (wrong := attempt(whole, work, corrupt, rng)), f"{whole} {corrupt.__name__} {wrong}")
        mend(whole, work)
    ms.load(work)
    return made


def test_altered_models_are_refused(tmp_path):
    count = trials.Count(4, PROMISE, 4)
    for whole in models(tmp_path, ("table", "pictures")):
        torment(count, whole, 60, 4)
    count.check()


def test_an_altered_checkpoint_or_finished_part_is_not_used(tmp_path):
    """A run that resumes skips what does not verify, and ends as it would have."""
    case = trials.cases(tmp_path)["table"]
    trials.train(case, tmp_path / "whole")
    place = tmp_path / "run"

    def train(figures):
        if figures.get("part") == "refit" and figures.get("step") == 4:
            os._exit(1)  # a checkpoint of step 3 is there, and a finished part

    assert trial(lambda: trials.train(case, place, report=train)).kind == "crashed"
    newest = sorted((place / "candidates" / "refit-training" / "checkpoints").iterdir())[-1] / "arrays.safetensors"
    part = next(place.rglob("result.json"))
    for path in (newest, part):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    told = []
    trials.train(case, place, resume=True, report=told.append)
    assert any("damaged" in figures.get("warning", "") for figures in told)
    assert trials.weights(place) == trials.weights(tmp_path / "whole")


@pytest.mark.torture
def test_ten_thousand(tmp_path):
    count = trials.Count(4, PROMISE, 20261124)
    total, made = trials.scaled(10_000), {}
    folders = models(tmp_path)
    for i, whole in enumerate(folders):
        made[KINDS[i]] = torment(count, whole, total // len(folders) + (i < total % len(folders)), i)
    count.write(kinds=made, **speed(folders[1], tmp_path / "big"))


def speed(whole: Path, big: Path):
    """Bytes verified a second of processor time on 256 MiB, and what verifying adds to the load of a small model."""
    with files.folder(big, {"format": 1}) as made:
        made.add("weights.safetensors", np.random.default_rng(0).bytes(256 << 20))

    def best(function):
        times = []
        for _ in range(5):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        return min(times)

    rate = (256 << 20) / best(lambda: artifact.check(big)) / 1e9
    check, load = best(lambda: artifact.check(whole)), best(lambda: seal.open_folder(whole))
    return {"verified_GB_per_cpu_s": round(rate, 2), "verify_cpu_ms": round(check * 1e3, 2), "load_cpu_ms": round(load * 1e3, 2)}

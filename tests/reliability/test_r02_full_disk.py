"""Row 2: a full disk never costs a good artifact, and what it left is gone after the next start."""

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import trials

from mainstem import artifact, config, files
from mainstem.data import examples
from mainstem.errors import MainstemError
from mainstem.testing.faults import counting, failing, trial
from mainstem.training import checkpoints, features

PROMISE = "a full disk at any operation leaves the artifact that was there, tells the place and how much was needed, and leaves no files"
ERRORS = (errno.ENOSPC, errno.EFBIG)


def save(place, step):
    checkpoints.save(place, step, {"step": step}, {"a": np.full(1000, step, np.float32)})


def checkpoint(place, number):
    """A third checkpoint beside two; what a full disk may cost is the third alone."""
    save(place, number)


def settings(place, number):
    config.write(place / "config.yaml", config.build({"seed": number}))


def model(place, number):
    with files.folder(place / "model", {"format": 1}) as made:
        made.add("mainstem.json", "{}")
        made.add("backbones/text/model.safetensors", artifact.pack_arrays({"w": np.full(1000, number, np.float32)}))
        made.add("linked", place / "source")
        made.add_json("seal.json", {"number": number})


def example(place, number):
    examples.write("linear", place / str(number))


WRITERS = (checkpoint, settings, model, example)


def run_dry(count, place, write, every=1):
    """Fail every operation of one write in turn; then write again with room, as the next start would."""

    def prepare():
        trials.fresh(place).mkdir()
        (place / "source").write_bytes(b"source")
        for number in (1, 2):
            write(place, number)

    prepare()
    before = trials.snapshot(place)
    with counting() as calls:
        write(place, 3)
    for n in range(1, len(calls) + 1, every):
        for error in ERRORS:
            prepare()
            said = ""
            with failing(n, error, lasting=True):
                try:
                    write(place, 3)
                except MainstemError as refused:
                    said = str(refused)
            after = trials.snapshot(place)
            kept = all(after.get(name) == data for name, data in before.items()) or n > len(calls) - 4  # after the rename: the new one
            litter = [name for name in after if ".tmp-" in name]
            files.sweep(place)
            checkpoints.load(place)
            write(place, 4)
            count(
                kept and "disk is full" in said and str(place) in said and not litter and not trials.leftovers(place),
                f"{write.__name__} {calls[n - 1]} {n} of {len(calls)}: {said} {litter}",
            )


def cached(place, count, monkeypatch):
    """A cache on a full disk costs time, never the run; half-written files of the dead go with the next that is written."""
    monkeypatch.setenv("MAINSTEM_CACHE", str(place))
    hashes = [f"{i:032x}" for i in range(4)]

    def look_up(rows):
        return features.cached("w", "e", "f", hashes[:rows], lambda asked: np.array([[i] for i in asked], np.float32))

    look_up(2)
    before = trials.snapshot(place)
    with counting() as calls:
        look_up(3)
    for n in range(1, len(calls) + 1):
        trials.fresh(place)
        look_up(2)
        left = place / "features" / "x.safetensors.tmp-01234567"
        left.write_bytes(b"half")
        os.utime(left, (0, 0))
        with failing(n, lasting=True):
            found = look_up(4)
        kept = trials.snapshot(place).get("features/w-e-f.safetensors")
        look_up(3)
        right = found.tolist() == [[0.0], [1.0], [2.0], [3.0]]
        count((right and kept in (*before.values(), None)) or n > len(calls) - 3, f"cache {n}: {found.tolist()}")
        count(not trials.leftovers(place), f"cache {n}: {trials.leftovers(place)}")


def test_writers_on_a_full_disk(tmp_path, monkeypatch):
    count = trials.Count(2, PROMISE, 0)
    for write in WRITERS:
        run_dry(count, tmp_path / write.__name__, write, every=5)
    cached(tmp_path / "cache", count, monkeypatch)
    count.check()


def whole_run(count, folder, name):
    """Seal a finished run again while the disk is full at the n-th operation: its model stays, and the next start is clean."""
    case, place = trials.cases(folder)[name], folder / "run"
    trials.train(case, place)

    def again():
        (place / "report.json").unlink(missing_ok=True)  # as if it had been killed before its last line
        trials.fresh(place / "candidates" / "refit-training")
        trials.train(case, place, resume=True)

    before = trials.weights(place)
    calls = trial(again, counting).calls
    for n in range(1, len(calls) + 1, round(1 / trials.share())):
        done = trial(again, lambda n=n: failing(n, ERRORS[n % 2], lasting=True))
        artifact.check(place / "model")
        right = done.kind == "refused" and "disk is full" in done.message and str(place) in done.message
        count(right and trials.weights(place) == before, f"{name}, {calls[n - 1]} {n} of {len(calls)}: {done.kind} {done.message}")
    whole = trial(again)
    count(whole.kind == "done" and not trials.leftovers(place), f"{name}: {whole.message} {trials.leftovers(place)}")
    return len(calls)


SMALL = """
    import os, resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    from mainstem.cli import main
    sys.exit(main(sys.argv[2:]))
"""


def test_the_command_line_on_a_disk_that_takes_no_more(tmp_path):
    examples.write("table", tmp_path)
    [data] = tmp_path.iterdir()
    line = ["train", str(data), "--target", "rent", "--backbone", "mlp", "--epochs", "1", "-o", str(tmp_path / "run")]
    script = textwrap.dedent(SMALL)
    done = subprocess.run([sys.executable, "-c", script, "4000", *line], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert "bytes were needed" in done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "run") in done.stderr
    assert not [p for p in (tmp_path / "run").rglob("*") if ".tmp-" in p.name]
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.torture
def test_every_operation(tmp_path, monkeypatch):
    count, operations = trials.Count(2, PROMISE, 0), {}
    for write in WRITERS:
        run_dry(count, tmp_path / write.__name__, write)
    cached(tmp_path / "cache", count, monkeypatch)
    writers = count.n
    for name in ("table", "text", "pictures", "several"):
        operations[name] = whole_run(count, tmp_path / name, name)
    real = on_a_small_disk(count, tmp_path)
    count.write(writers=writers, operations_of_a_run=operations, real_disk=real)


def on_a_small_disk(count, folder):
    """Runs in a file system that is too small for them, of many sizes; "" where none can be mounted."""
    place, case = folder / "small", trials.cases(folder)["table"]
    place.mkdir()
    sizes = 0
    for size in range(40, 400, 12):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], capture_output=True).returncode:
            return "no file system could be mounted"
        try:
            done = trial(lambda: trials.train(case, place / "run"))
            if done.kind == "done":
                count(True)
                continue
            sizes += 1
            litter = [p.name for p in place.rglob("*") if ".tmp-" in p.name]
            right = done.kind == "refused" and "disk is full" in done.message and str(place) in done.message and not litter
            subprocess.run(["mount", "-o", "remount,size=20m", str(place)], check=True)
            again = trial(lambda: trials.train(case, place / "run", resume=True))
            count(right and again.kind == "done" and not trials.leftovers(place / "run"), f"{size} KiB: {done} {litter} {again}")
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return f"{sizes} sizes of a real file system that were too small"

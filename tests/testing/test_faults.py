import errno
import os
import shutil

import pytest

from mainstem import files
from mainstem.errors import MainstemError
from mainstem.testing.faults import counting, failing, killing, trial

OLD, NEW = b"old" * 1000, b"new" * 2000


def write_file(place):
    files.write_bytes(place / "deep" / "file", NEW)


def write_folder(place):
    with files.folder(place / "folder", {"format": 1}) as made:
        made.add("a/b", NEW)
        made.add_json("c.json", {"x": 1})
        made.add("linked", place / "source")


def write_bare_folder(place):
    with files.folder(place / "folder") as made:
        made.add("a", NEW)
        made.replace("a", NEW + b"!")


def prepare(place):
    place.mkdir()
    (place / "deep").mkdir()
    (place / "deep" / "file").write_bytes(OLD)
    (place / "source").write_bytes(OLD)
    (place / "folder").mkdir()
    (place / "folder" / "z").write_bytes(OLD)


def snapshot(place):
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}


WRITERS = [write_file, write_folder, write_bare_folder]


def before_and_after(tmp_path, write):
    """(snapshot before, snapshot after, the operations in between)."""
    prepare(tmp_path / "whole")
    before = snapshot(tmp_path / "whole")
    with counting() as calls:
        write(tmp_path / "whole")
    return before, snapshot(tmp_path / "whole"), list(calls)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("error", "lasting"), [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False)])
def test_a_failing_disk_at_every_operation_leaves_old_or_new(tmp_path, write, error, lasting):
    before, after, calls = before_and_after(tmp_path, write)
    commit = len(calls) - calls[::-1].index("rename")  # before it has happened, the old must stand
    for n in range(1, len(calls) + 1):
        place = tmp_path / str(n)
        prepare(place)
        with pytest.raises(MainstemError) as caught, failing(n, error, lasting=lasting):
            write(place)
        assert str(place) in str(caught.value)
        assert ("disk is full" in str(caught.value)) == (error == errno.ENOSPC)
        for parent in (place, place / "deep"):
            files.sweep(parent)
        assert snapshot(place) in ((before,) if n <= commit else (before, after)), (n, calls[:n])
        shutil.rmtree(place)


@pytest.mark.parametrize("write", WRITERS)
def test_a_kill_at_every_operation_leaves_old_or_new(tmp_path, write):
    before, after, calls = before_and_after(tmp_path, write)
    for n in range(1, len(calls) + 1):
        place = tmp_path / str(n)
        prepare(place)
        assert trial(lambda place=place: write(place), lambda n=n: killing(n)).kind == "killed"
        for parent in (place, place / "deep"):
            files.sweep(parent)
        assert snapshot(place) in (before, after), (n, calls[:n])
    assert trial(lambda: write(tmp_path / "1"), lambda: killing(len(calls) + 1)).kind == "done"


def test_a_log_keeps_whole_lines_on_a_full_disk(tmp_path):
    log = tmp_path / "log.jsonl"
    files.append_line(log, "first")
    with counting() as calls:
        files.append_line(tmp_path / "other", "x")
    for n in range(1, len(calls) + 1):
        with pytest.raises(MainstemError, match="disk is full"), failing(n):
            files.append_line(log, "a line that does not fit")
        assert log.read_text() == "first\n"
    files.append_line(log, "second")
    assert log.read_text() == "first\nsecond\n"


def test_sweep_leaves_the_files_of_others_alone(tmp_path):
    for name in ("a.tmp-b", "notes.tmp-2024.csv", "x.old-times"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "x.tmp-0123abcd").write_text("left by a killed writer")
    assert files.sweep(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tmp-b", "notes.tmp-2024.csv", "x.old-times"]


def test_a_killed_removal_is_finished_by_the_sweep(tmp_path, monkeypatch):
    prepare(tmp_path / "p")
    monkeypatch.setattr(files, "_discard", lambda path: os._exit(9))
    assert trial(lambda: files.remove(tmp_path / "p" / "folder")).kind == "crashed"
    monkeypatch.undo()
    files.sweep(tmp_path / "p")
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["deep", "source"]


def test_trials_tell_how_they_ended():
    def refuse():
        raise MainstemError("no", do="Try.")

    assert trial(lambda: None).kind == "done"
    assert trial(refuse).message == "no. Try."
    crashed = trial(lambda: 1 / 0)
    assert crashed.kind == "crashed"
    assert "ZeroDivisionError" in crashed.message


def test_faults_are_gone_afterwards(tmp_path):
    with pytest.raises(MainstemError), failing(1):
        files.write_bytes(tmp_path / "a", b"1")
    assert files.os is os
    files.write_bytes(tmp_path / "a", b"1")
    outcome = trial(lambda: files.write_bytes(tmp_path / "a", b"2"), counting)
    assert outcome.kind == "done"
    assert outcome.calls.count("rename") == 1
    assert (tmp_path / "a").read_bytes() == b"2"

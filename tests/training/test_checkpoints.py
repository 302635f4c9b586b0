import errno
import shutil

import numpy as np
import pytest

from mainstem.errors import MainstemError
from mainstem.testing.faults import counting, failing, killing, relist, trial
from mainstem.training import checkpoints

DTYPES = [
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
    "complex64",
    "V2",
]


def state(step):
    generator = np.random.default_rng(step)
    return {"step": step, "loss": 1 / 3, "seen": [1, None, "二"]}, {"w": generator.standard_normal((4, 3)), "n": np.array(step)}


def save(folder, step, **more):
    return checkpoints.save(folder, step, *state(step), **more)


def names(folder):
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def same(found, step):
    expected_json, expected = state(step)
    return (
        found.step == step
        and found.json == expected_json
        and found.arrays.keys() == expected.keys()
        and all(a.tobytes() == expected[k].tobytes() and a.shape == expected[k].shape for k, a in found.arrays.items())
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_round_trips(tmp_path, dtype):
    raw = np.random.default_rng(0).integers(0, 2, 96, dtype=np.uint8)
    whole = np.frombuffer(raw.tobytes(), np.dtype(dtype))[:6].reshape(2, 3)
    arrays = {"whole": whole, "strided": whole[:, ::2], "turned": whole.T, "point": whole[1, 1:2].reshape(()), "empty": whole[:0]}
    checkpoints.save(tmp_path, 7, {}, arrays)
    found, skipped = checkpoints.load(tmp_path)
    assert skipped == []
    assert found.step == 7
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype, name
        assert found.arrays[name].shape == array.shape, name
        assert found.arrays[name].tobytes() == array.tobytes(), name
        assert found.arrays[name].flags.writeable


def test_the_newest_wins_and_two_are_kept(tmp_path):
    assert checkpoints.load(tmp_path) == (None, [])
    for step in (1, 2, 999_999, 1_000_000):
        save(tmp_path, step)
    assert same(checkpoints.load(tmp_path)[0], 1_000_000)
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    save(tmp_path, 1_000_001, keep=1)
    assert names(tmp_path) == ["step-1000000", "step-1000001"]
    save(tmp_path, 1_000_002, keep=3)
    assert len(names(tmp_path)) == 3


def damage(path, how):
    if how == "bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()


@pytest.mark.parametrize("file", ["state.json", "arrays.safetensors", "MANIFEST.json"])
@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
def test_a_damaged_one_is_skipped_and_removed(tmp_path, file, how):
    save(tmp_path, 1)
    damage(save(tmp_path, 2) / file, how if (file, how) != ("MANIFEST.json", "cut") else "gone")
    found, skipped = checkpoints.load(tmp_path, mend=False)
    assert same(found, 1)
    assert names(tmp_path) == ["step-000001", "step-000002"]
    found, skipped = checkpoints.load(tmp_path)
    assert same(found, 1)
    assert len(skipped) == 1
    assert "step-000002" in skipped[0]
    assert names(tmp_path) == ["step-000001"]


def test_when_all_are_damaged_there_is_none(tmp_path):
    for step in (1, 2):
        damage(save(tmp_path, step) / "arrays.safetensors", "bit")
    found, skipped = checkpoints.load(tmp_path)
    assert found is None
    assert len(skipped) == 2


def test_a_format_of_the_future_is_refused_not_removed(tmp_path):
    path = save(tmp_path, 1)
    relist(path, format=9)
    with pytest.raises(MainstemError, match="format 9"):
        checkpoints.load(tmp_path)
    assert names(tmp_path) == ["step-000001"]


def test_what_the_disk_did_not_take_is_noticed_and_costs_no_older_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(checkpoints.files, "broken", lambda path: ["state.json: changed"])
    with pytest.raises(MainstemError, match="does not hold what was written"):
        save(tmp_path, 3)
    assert {"step-000001", "step-000002"} <= set(names(tmp_path))


def start(folder):
    template = folder.parent / "template"
    if not template.exists():
        save(template, 1)
        save(template, 2)
    shutil.copytree(template, folder)


def operations(tmp_path):
    start(tmp_path / "whole")
    with counting() as calls:
        save(tmp_path / "whole", 3)
    return list(calls)


def stands(folder, committed):
    """After the fault: 2 or 3 loads byte for byte, and nothing temporary is left."""
    found, skipped = checkpoints.load(folder)
    assert skipped == []
    assert same(found, 3) if found.step == 3 and committed else same(found, 2)
    assert all(name.startswith("step-") and len(name) == 11 for name in names(folder))
    assert len(names(folder)) >= 2


@pytest.mark.parametrize(("error", "lasting"), [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False)])
def test_a_failing_disk_at_every_operation_of_a_save(tmp_path, error, lasting):
    calls = operations(tmp_path)
    for n in range(1, len(calls) + 1):
        folder = tmp_path / str(n)
        start(folder)
        with pytest.raises(MainstemError, match="full" if error == errno.ENOSPC else "cannot write"), failing(n, error, lasting=lasting):
            save(folder, 3)
        assert not [name for name in names(folder) if ".tmp-" in name]
        stands(folder, committed=n > calls.index("rename") + 1)
        shutil.rmtree(folder)


def test_a_kill_at_every_operation_of_a_save(tmp_path):
    calls = operations(tmp_path)
    assert len(calls) > 10
    for n in range(1, len(calls) + 1):
        folder = tmp_path / str(n)
        start(folder)
        assert trial(lambda folder=folder: save(folder, 3), lambda n=n: killing(n)).kind == "killed"
        stands(folder, committed=n > calls.index("rename") + 1)
        shutil.rmtree(folder)
    start(tmp_path / "last")
    assert trial(lambda: save(tmp_path / "last", 3), lambda: killing(len(calls) + 1)).kind == "done"
    assert same(checkpoints.load(tmp_path / "last")[0], 3)


def test_a_run_goes_on_after_a_kill(tmp_path):
    start(tmp_path / "run")
    assert trial(lambda: save(tmp_path / "run", 3), lambda: killing(7)).kind == "killed"
    checkpoints.load(tmp_path / "run")
    save(tmp_path / "run", 3)
    assert same(checkpoints.load(tmp_path / "run")[0], 3)


def test_a_kill_while_the_same_step_is_saved_again(tmp_path):
    start(tmp_path / "whole")
    with counting() as calls:
        save(tmp_path / "whole", 2)
    for n in range(1, len(calls) + 1):
        folder = tmp_path / str(n)
        start(folder)
        assert trial(lambda folder=folder: save(folder, 2), lambda n=n: killing(n)).kind == "killed"
        found, skipped = checkpoints.load(folder)
        assert skipped == []
        assert same(found, 2)
        assert names(folder) == ["step-000001", "step-000002"]

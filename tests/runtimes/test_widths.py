"""One graph in sessions of several widths: equal answers, weights in memory once, nothing left on the disk."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mainstem import files
from mainstem.runtimes import _widths, onnx
from mainstem.runtimes._calls import CORES

WIDE = 1024
X = np.random.default_rng(0).normal(size=(40, WIDE)).astype(np.float32)


def graph(layers=2):
    rng = np.random.default_rng(1)
    weights = [(rng.normal(size=(WIDE, WIDE)) / WIDE**0.5).astype(np.float32) for _ in range(layers)]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"p{i}"]))
        nodes.append(helper.make_node("Tanh", [f"p{i}"], [f"h{i + 1}"]))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, ["n", WIDE])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def test_widths_are_powers_of_two_and_all_cores(monkeypatch):
    for cores, expected in ((1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))):
        monkeypatch.setattr(_widths, "threads", lambda cores=cores: cores)
        assert _widths.widths() == expected


def test_every_width_answers_alike_and_a_run_takes_the_one_that_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = graph()
    sessions = _widths.sessions(data, (1, 2, 4))
    assert [each.get_session_options().intra_op_num_threads for each in sessions.values()] == [1, 2, 4]
    assert not list(tmp_path.iterdir())  # the file that they share is gone, and they go on with its pages
    run, alone = onnx.function(sessions), onnx.function(onnx.session(data))({"h0": X}, ("h2",))["h2"]
    for cores, width in ((0, 4), (1, 1), (2, 2), (3, 2), (9, 4)):
        token = CORES.set(cores)
        assert _widths.chosen(sessions) is sessions[width]
        assert np.abs(run({"h0": X}, ("h2",))["h2"] - alone).max() < 1e-5
        CORES.reset(token)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="memory is read from /proc")
def test_the_weights_lie_in_memory_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def anonymous():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) << 10

    data, held = graph(6), []
    before = anonymous()
    for _, session in _widths.sessions(data, (1, 2, 4)).items():
        session.run(None, {"h0": X})
        held.append(session)
    assert anonymous() - before < len(data)  # three copies would be three times as much, on top of arenas


def test_without_room_on_the_disk_one_session_serves_all(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    sessions = _widths.sessions(graph(), (1, 2))
    assert list(sessions) == [2]
    token = CORES.set(1)
    assert onnx.function(sessions)({"h0": X}, ("h2",))["h2"].shape == X.shape
    CORES.reset(token)


def test_what_a_killed_process_left_goes_when_the_next_needs_room(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "from mainstem import files\nwith files.scratch() as folder:\n print(folder, flush=True)\n input()"
    start = [sys.executable, "-c", program]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed, alive = (subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2))
    left, used = (Path(process.stdout.readline().strip()) for process in (killed, alive))
    killed.kill()
    killed.communicate()
    (tmp_path / ".mainstem-scratch").mkdir()  # of somebody else
    assert left.exists()
    with files.scratch() as mine:
        assert {path.name for path in tmp_path.glob(".mainstem-*")} == {mine.name, used.name, ".mainstem-scratch"}
    alive.communicate("\n")
    assert [path.name for path in tmp_path.glob(".mainstem-*")] == [".mainstem-scratch"]


def test_a_disk_that_fills_meanwhile_is_no_fault(tmp_path):
    """Weights that do not fit are cut off (here by a limit on the size of files), and one session serves all."""
    (tmp_path / "graph.onnx").write_bytes(graph())
    program = f"""
import resource, sys
import numpy as np
from mainstem import files
from mainstem.runtimes import _widths
data = open(r"{tmp_path / "graph.onnx"}", "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sessions = _widths.sessions(data, (1, 2))
print(list(sessions), sessions[2].run(None, {{"h0": np.ones((1, {WIDE}), np.float32)}})[0].shape)
"""
    (tmp_path / "scratch").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == (f"[2] (1, {WIDE})\n", "")
    assert not list((tmp_path / "scratch").glob(".mainstem-*"))


def test_a_graph_that_cannot_be_read_is_told_as_ever():
    with pytest.raises(onnx.MainstemError, match="not a graph that ONNX Runtime can read"):
        onnx.Graph(b"nothing" * 400_000, "g.onnx", widths=(1, 2))

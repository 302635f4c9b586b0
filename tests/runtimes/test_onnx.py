"""Sessions are shared by the bytes of the graphs, whatever a folder says of itself."""

import numpy as np
from onnx import TensorProto, helper

from mainstem.contracts import Call, GraphSpec, Port
from mainstem.runtimes import onnx

PORTS = (Port("x", "float32", ("row",)),), (Port("y", "float32", ("row",)),)
SPECS = {"head": GraphSpec(*PORTS, weights_id="claimed")}


def write(folder, operator):
    """A model folder's graph that applies one operator."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["row"]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx.OPSET)], ir_version=10)
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx/head.onnx").write_bytes(made.SerializeToString())
    return folder


def test_equal_graphs_share_a_session_and_a_claimed_weights_id_shares_none(tmp_path):
    cache = {}
    folders = [write(tmp_path / name, operator) for name, operator in (("a", "Neg"), ("b", "Neg"), ("c", "Abs"))]
    first, same, claims = (onnx.runner(folder, SPECS, cache) for folder in folders)
    assert first.functions["head"] is same.functions["head"]
    assert first.functions["head"] is not claims.functions["head"]
    call = Call("head", {"x": np.array([-2.0], np.float32)})
    assert [runner(call)["y"].tolist() for runner in (first, same, claims)] == [[2.0], [2.0], [2.0]]
    call = Call("head", {"x": np.array([3.0], np.float32)})
    assert [runner(call)["y"].tolist() for runner in (first, same, claims)] == [[-3.0], [-3.0], [3.0]]

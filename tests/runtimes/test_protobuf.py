"""Tensors outside the file are found wherever ONNX lets one stand, and nothing else is taken for one; messages are read as written."""

import numpy as np
import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, TrainingInfoProto, helper, numpy_helper

from mainstem.runtimes import _protobuf
from mainstem.runtimes._protobuf import has_external_data


def outside(location=True):
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
    if location:
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add(key="location", value="../w.bin")  # without the flag: some readers follow it all the same
    return tensor


def inside():
    return numpy_helper.from_array(np.array([1.0], np.float32), "w")


def sparse(values, indices=None):
    return SparseTensorProto(values=values, indices=indices or numpy_helper.from_array(np.array([0]), "i"), dims=[1])


def graph(tensor=None, nodes=()):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"]), *nodes], "g", [value], [value], [tensor] if tensor else [])


def node(**fields):
    made = helper.make_node("Custom", ["x"], ["z"])
    made.attribute.append(AttributeProto(name="a", **fields))
    return made


def model(made=None, **more):
    return helper.make_model(made or graph(), opset_imports=[helper.make_opsetid("", 18)], **more)


def nested(depth, tensor):
    made = graph(tensor)
    for _ in range(depth):
        made = graph(nodes=[node(g=made, type=AttributeProto.GRAPH)])
    return made


def in_sparse_initialiser(tensor):
    made = graph()
    made.sparse_initializer.append(sparse(tensor))
    return model(made)


def in_function(tensor):
    function = helper.make_function("d", "f", ["x"], ["z"], [node(t=tensor, type=AttributeProto.TENSOR)], [helper.make_opsetid("", 18)])
    return model(functions=[function])


def in_function_default(tensor):
    function = helper.make_function("d", "f", ["x"], ["z"], [], [helper.make_opsetid("", 18)])
    function.attribute_proto.append(AttributeProto(name="a", t=tensor, type=AttributeProto.TENSOR))
    return model(functions=[function])


def in_training(tensor):
    made = model()
    made.training_info.append(TrainingInfoProto(algorithm=graph(tensor)))
    return made


PLACES = {
    "initialiser": lambda t: model(graph(t)),
    "sparse initialiser": in_sparse_initialiser,
    "sparse indices": lambda t: model(graph(nodes=[node(sparse_tensor=sparse(inside(), t), type=AttributeProto.SPARSE_TENSOR)])),
    "attribute": lambda t: model(graph(nodes=[node(t=t, type=AttributeProto.TENSOR)])),
    "list of an attribute": lambda t: model(graph(nodes=[node(tensors=[inside(), t], type=AttributeProto.TENSORS)])),
    "sparse list": lambda t: model(graph(nodes=[node(sparse_tensors=[sparse(t)], type=AttributeProto.SPARSE_TENSORS)])),
    "subgraph": lambda t: model(nested(1, t)),
    "subgraphs": lambda t: model(graph(nodes=[node(graphs=[graph(), graph(t)], type=AttributeProto.GRAPHS)])),
    "deep subgraph": lambda t: model(nested(6, t)),
    "function": in_function,
    "default of a function": in_function_default,
    "training": in_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_outside_the_file_is_found(place):
    assert has_external_data(PLACES[place](outside()).SerializeToString())
    assert has_external_data(PLACES[place](outside(location=False)).SerializeToString())
    assert not has_external_data(PLACES[place](inside()).SerializeToString())


def test_text_that_looks_like_it_is_no_tensor():
    made = model(graph(inside()), doc_string="external_data location ../w.bin")
    made.metadata_props.add(key="location", value="w.bin")
    assert not has_external_data(made.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff", b"\x3a\x10abc", b"\x0b", b"\x09\x00", b"\xff" * 20])
def test_what_is_no_protobuf_is_refused(data):
    with pytest.raises(ValueError, match=r"cut short|wire type"):
        has_external_data(data)


def test_nesting_without_end_is_refused():
    """The onnx package itself reads no such file; another program may write one."""
    data = b""
    for _ in range(200):
        for field in (6, 5, 1):  # graph of an attribute of a node of a graph
            size = len(data)
            length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            data = bytes([field << 3 | 2]) + length + data
    with pytest.raises(ValueError, match="nested"):
        has_external_data(bytes([7 << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7 & 0x7F | 0x80, len(data) >> 14]) + data)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 40, -1])
def test_numbers_are_written_as_they_are_read(value):
    [(number, read)] = _protobuf.fields(memoryview(_protobuf.field(5, value)))
    assert (number, read) == (5, value % (1 << 64))


@pytest.mark.parametrize("size", [0, 5, 127, 128, 70_000])
def test_bytes_are_written_as_they_are_read(size):
    [(number, read)] = _protobuf.fields(memoryview(_protobuf.field(20, b"x" * size)))
    assert (number, bytes(read)) == (20, b"x" * size)


def test_nodes_and_tensors_are_read_as_the_library_wrote_them():
    node = helper.make_node("Gemm", ["a", "b"], ["c"], name="/layer/Gemm", domain="d", alpha=0.5)
    read = _protobuf.read_node(memoryview(node.SerializeToString()))
    assert (read.name, read.operator, read.domain, read.inputs, read.outputs) == ("/layer/Gemm", "Gemm", "d", ("a", "b"), ("c",))
    assert dict(_protobuf.fields(read.attributes[0]))[2] == 0.5
    tensor = _protobuf.read_tensor(memoryview(helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [1.0, 2.0]).SerializeToString()))
    assert (tensor.name, tensor.kind, tensor.shape, len(tensor.data)) == ("w", TensorProto.FLOAT, (2, 1), 8)

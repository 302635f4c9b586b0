"""Messages come out as they went in, whatever pieces they arrive in; what is no message is refused."""

import socket
import struct
import threading

import numpy as np
import pytest

from mainstem.contracts import Port
from mainstem.serve import channel, engine

ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3),
    np.array(2.5, np.float32),
    np.zeros((0, 4), np.float64),
    np.array([True, False, True]),
    np.asfortranarray(np.arange(6, dtype=np.float16).reshape(3, 2)),
]


def same(found, expected):
    return all(a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_messages_arrive_whole_from_any_pieces():
    data = b"".join([*channel.pack({"do": "x", "名": 1}, ARRAYS), *channel.pack({"beat": True}), *channel.pack({}, ARRAYS[:1])])
    rng = np.random.default_rng(0)
    for _ in range(50):
        reader, found, at = channel.Reader(), [], 0
        while at < len(data):
            step = int(rng.integers(1, 60))
            found += reader.feed(data[at : at + step])
            at += step
        assert [told for told, _ in found] == [{"do": "x", "名": 1}, {"beat": True}, {}]
        assert same(found[0][1], ARRAYS)
        assert all(array.ctypes.data % 16 == 0 or not array.size for array in found[0][1] if array.itemsize > 2)


def test_over_a_socket_until_it_is_closed():
    ours, theirs = socket.socketpair()
    large = [np.random.default_rng(0).normal(size=(300, 4000))]
    sender = threading.Thread(target=lambda: (channel.send(ours, {"a": 1}, large), ours.close()))
    sender.start()
    told, arrays = channel.receive(theirs)
    assert told == {"a": 1}
    assert same(arrays, large)
    assert channel.receive(theirs) is None
    sender.join()
    theirs.close()


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"arrays": [["|O", [1]]]}',
        b'{"arrays": [["<f4", [-1]]]}',
        b'{"arrays": [["<f4", [100]]]}',
        b'{"arrays": [["<f4", [1]]]}',
        b'{"arrays": [["<f4", "x"]]}',
        b'{"arrays": [["|i1", [4611686018427387904, 16]]]}',
        b'{"arrays": 3}',
    ],
)
def test_headers_that_contradict_the_body_are_refused(header):
    with pytest.raises(channel.BrokenChannel):
        channel.unpack(header, bytes(32))


def test_frames_that_are_none_are_refused():
    for prefix in (b"HTTP/1.1 200 OK\r", struct.pack("<4sIQ", b"ms01", 1 << 31, 0), struct.pack("<4sIQ", b"ms01", 2, 1 << 62)):
        with pytest.raises(channel.BrokenChannel):
            list(channel.Reader().feed(prefix))


def test_objects_are_never_sent():
    with pytest.raises(TypeError, match="object"):
        channel.pack({}, [np.array([{}], object)])


def test_runs_answers_and_ports_survive_the_way():
    parts = [engine.Part({"x": ARRAYS[0]}, [(3, None), (4, np.array([1, 0]))]), engine.Part({"x": ARRAYS[0], "y": ARRAYS[3]})]
    header, arrays = engine.pack_run(5, parts, ("a", "b"), ("past",), 2)
    number, found, wanted, keep, cores = engine.unpack_run(*channel.unpack(*packed(header, arrays)))
    assert (number, wanted, keep, cores) == (5, ("a", "b"), ("past",), 2)
    assert [sorted(part.arrays) for part in found] == [["x"], ["x", "y"]]
    assert found[0].held[0] == (3, None)
    assert found[0].held[1][1].tolist() == [1, 0]
    answers = [engine.Answered({"a": ARRAYS[1]}, {"past": (7, {"past.0": (1, 2)})}), engine.Answered({"a": ARRAYS[2]})]
    back = engine.unpack_answers(*channel.unpack(*packed(*engine.pack_answers(answers))))
    assert back[0].kept == answers[0].kept
    assert same([answer.arrays["a"] for answer in back], ARRAYS[1:3])
    ports = {"g": ((Port("x", "int64", ("row", "pad:t"), pad=3),), (Port("y", "float32", ("row",), optional=True),), "text")}
    assert engine.unpack_ports(channel.unpack(*packed(engine.pack_ports(ports), []))[0]) == ports


def packed(header, arrays):
    _, data, *body = channel.pack(header, arrays)
    return data, b"".join(body)

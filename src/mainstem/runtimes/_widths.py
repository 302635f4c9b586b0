"""One graph in sessions of several widths (threads that a run may use), whose weights lie in memory once.

A session has its threads for life, and neither number is right for a server: with one, a lone request leaves cores idle; with as
many as there are cores, requests at the same time wake and wait for each other's threads. ONNX Runtime can write a graph with its
weights as it packed them for this machine; sessions that read that file share its pages.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from mainstem import files
from mainstem.runtimes._calls import CORES, threads

SPIN = "20"  # µs that a thread waits for the next node before it leaves its core to others: longer than between two nodes, and no more
SMALL = 1 << 20  # bytes of a graph, below which every session may have its own
_EXTERNAL = 1024  # bytes of a tensor that is shared

Sessions = Mapping[int, onnxruntime.InferenceSession]


def widths() -> tuple[int, ...]:
    """Powers of two up to the cores of this process, and all of them."""
    cores = threads()
    return (*(1 << n for n in range(cores.bit_length()) if 1 << n < cores), cores)


def chosen(sessions: Sessions) -> onnxruntime.InferenceSession:
    """The widest of these that this context allows."""
    cores = CORES.get() or max(sessions)
    return sessions[max((width for width in sessions if width <= cores), default=min(sessions))]


def options(width: int) -> onnxruntime.SessionOptions:
    """Of a session whose runs use so many threads, the caller's included."""
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 3
    made.intra_op_num_threads = width
    made.enable_mem_pattern = False  # a plan for every shape that came: no faster here, and tens of MB with texts of many lengths
    made.add_session_config_entry("session.intra_op.spin_duration_us", SPIN)
    return made


def session(graph: bytes | str, width: int, left_out: Sequence[str] = ()) -> onnxruntime.InferenceSession:
    """A session on the CPU. left_out: optimizers that do not run. Raises the runtime's own errors, which have no common base."""
    made = onnxruntime.InferenceSession(graph, options(width), providers=["CPUExecutionProvider"], disabled_optimizers=list(left_out))
    made._model_bytes = None  # else it holds the file's bytes as well as its weights for as long as it lives
    return made


def sessions(data: bytes, wanted: Sequence[int]) -> Sessions:
    """A session of each width. Raises the runtime's own errors."""
    if len(wanted) > 1 and len(data) >= SMALL:
        try:
            with files.scratch() as folder:  # the sessions hold its pages when it is gone
                return _sharing(data, wanted, folder)
        except Exception:  # no room on the disk, or a graph that cannot be written: one session serves all, or tells what is wrong
            wanted = wanted[-1:]
    return {width: session(data, width) for width in wanted}


def _sharing(data: bytes, wanted: Sequence[int], folder: Path) -> Sessions:
    written = options(1)
    written.optimized_model_filepath = str(folder / "graph.onnx")
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", "weights"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", str(_EXTERNAL)),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        written.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(data, written, providers=["CPUExecutionProvider"])
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what the writing took, most of it in small pieces
        ctypes.CDLL(None).malloc_trim(0)
    return {width: session(written.optimized_model_filepath, width) for width in wanted}

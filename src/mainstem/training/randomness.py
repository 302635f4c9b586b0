"""Random states of python, numpy and torch as JSON and arrays, and back exactly; seeding; deterministic torch."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mainstem.contracts import Array, Arrays

Generator = np.random.Generator | torch.Generator


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def deterministic() -> Iterator[dict[str, Any]]:
    """Within it torch uses deterministic algorithms alone (an operation that has none is an error) and flushes denormals to zero.

    Yields what equal weights depend on beside the seed: {"torch": version, "threads": n, "flush_denormal": whether the
    processor can}. What was set before is set again afterwards.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filler: Any = torch.utils.deterministic
    benchmark, filling = torch.backends.cudnn.benchmark, filler.fill_uninitialized_memory
    flushing = float(torch.tensor(1e-38) / 100) == 0  # torch does not tell
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when CUDA starts: without it matrix products are refused
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    filler.fill_uninitialized_memory = False  # for finding bugs; costs a pass over every new tensor
    flushed = torch.set_flush_denormal(True)
    try:
        yield {"torch": torch.__version__, "threads": torch.get_num_threads(), "flush_denormal": flushed}
    finally:
        torch.set_flush_denormal(flushing)
        filler.fill_uninitialized_memory = filling
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def capture(generators: Mapping[str, Generator] | None = None) -> tuple[dict[str, Any], dict[str, Array]]:
    """The states of the global generators and of the named ones, as JSON and arrays."""
    version, internal, gauss = random.getstate()
    arrays: dict[str, Array] = {"python": np.array(internal, np.uint32), "torch": torch.get_rng_state().numpy().copy()}
    if torch.cuda.is_available():
        arrays.update({f"cuda.{i}": state.numpy().copy() for i, state in enumerate(torch.cuda.get_rng_state_all())})
    json: dict[str, Any] = {"python": [version, gauss], "numpy": _pack(np.random.get_state(legacy=False), "numpy", arrays)}
    for name, generator in (generators or {}).items():
        key = f"generator.{name}"
        if isinstance(generator, torch.Generator):
            arrays[key] = generator.get_state().numpy().copy()
        else:
            json[key] = _pack(generator.bit_generator.state, key, arrays)
    return json, arrays


def restore(json: Mapping[str, Any], arrays: Arrays, generators: Mapping[str, Generator] | None = None) -> None:
    """Put a capture() back, into the same global generators and the named ones given."""
    version, gauss = json["python"]
    random.setstate((version, tuple(arrays["python"].tolist()), gauss))
    np.random.set_state(_unpack(json["numpy"], arrays))
    torch.set_rng_state(torch.from_numpy(arrays["torch"].copy()))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.from_numpy(arrays[f"cuda.{i}"].copy()) for i in range(torch.cuda.device_count())])
    for name, generator in (generators or {}).items():
        key = f"generator.{name}"
        if isinstance(generator, torch.Generator):
            generator.set_state(torch.from_numpy(arrays[key].copy()))
        else:
            generator.bit_generator.state = _unpack(json[key], arrays)


def _pack(value: Any, key: str, arrays: dict[str, Array]) -> Any:
    """A state of numpy → JSON (its integers may have 128 bits); arrays go to `arrays` under `key`."""
    if isinstance(value, Mapping):
        return {k: _pack(v, f"{key}.{k}", arrays) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        arrays[key] = value.copy()
        return {"array": key}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, Mapping):
        return arrays[value["array"]].copy() if "array" in value else {k: _unpack(v, arrays) for k, v in value.items()}
    return value

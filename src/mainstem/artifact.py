"""The model folder: what lies where, how it is read and verified, and the ids of what it holds.

    mainstem.json · backbones/NAME/ · adapters/NAME/ · head.safetensors · state.safetensors · onnx/GRAPH.onnx · replay/ ·
    seal.json · MANIFEST.json · card.md

Relocatable, no pickle, nothing in it is executed; names in it never leave it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mainstem import files, registry
from mainstem.contracts import Array, Arrays, GraphSpec, Json, Port, State
from mainstem.errors import MainstemError
from mainstem.schema import Column, Schema

FORMAT = 1
CONTENTS = "mainstem.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."  # what PEFT puts before every name
_SAFE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Input:
    """One input of a model: its columns, how they are encoded, and the backbone that reads them.

    `backbone` is the reference; "" where the arrays go to the head as they are (a predictor reads encoded columns).
    """

    name: str
    modality: str
    columns: tuple[str, ...]
    processor: Mapping[str, Any] = field(default_factory=dict)
    state: State = field(default_factory=State)
    backbone: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    adapt: str = ""
    lora: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def encode_id(self) -> str:
        """Id of what encoding does: settings and learned state of the processor."""
        return identity({"modality": self.modality, "columns": len(self.columns), "processor": self.processor}, self.state)


@dataclass(frozen=True)
class Artifact:
    """What a model is, without its weights: enough to parse, encode, predict and render over any Runner."""

    task: str
    settings: Mapping[str, Any]
    schema: Schema
    inputs: tuple[Input, ...]
    target: State
    state: State
    graphs: Mapping[str, GraphSpec]
    predictor: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)  # figures for people: data, comparison, notes


# --- ids --------------------------------------------------------------------------------------------------------------


def weights_id(arrays: Arrays, config: Json) -> str:
    """Id of a graph: sorted (name, dtype, shape, bytes) of its weights and the config that shapes it.

    Raw ONNX bytes are never hashed: two exports of one model differ.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=False, default=list).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()[:32]


def identity(config: Json, state: State) -> str:
    """Id of settings with a fitted state."""
    named = {f"file {name}": np.frombuffer(data, np.uint8) for name, data in state.files.items()}
    return weights_id({**state.arrays, **named}, [config, state.json])


# --- writing ----------------------------------------------------------------------------------------------------------


def write_contents(folder: files.Folder, artifact: Artifact) -> None:
    """mainstem.json and state.safetensors of a model folder that is being written; state files go beside their backbone, or
    under target/ and state/."""
    arrays: dict[str, Array] = {}
    inputs = [_pack_input(folder, each, arrays) for each in artifact.inputs]
    contents = {
        "format": FORMAT,
        "task": artifact.task,
        "settings": dict(artifact.settings),
        "schema": {"columns": [asdict(c) for c in artifact.schema.columns], "targets": [asdict(c) for c in artifact.schema.targets]},
        "inputs": inputs,
        "predictor": artifact.predictor,
        "target": pack_state(folder, artifact.target, "target", "target", arrays),
        "state": pack_state(folder, artifact.state, "state", "state", arrays),
        "graphs": {name: _pack_graph(spec) for name, spec in artifact.graphs.items()},
        "about": dict(artifact.about),
    }
    folder.add_json(CONTENTS, contents)
    folder.add("state.safetensors", pack_arrays(arrays))


def pack_arrays(arrays: Arrays) -> bytes:
    """Named arrays as the bytes of a safetensors file."""
    data: bytes = safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in sorted(arrays.items())})
    return data


def pack_state(folder: files.Folder, state: State, prefix: str, place: str, arrays: dict[str, Array]) -> Json:
    """A state as JSON: its arrays go to `arrays` under `prefix`, its files to the folder `place`."""
    arrays.update({f"{prefix}/{name}": array for name, array in state.arrays.items()})
    places = {name: f"{place}/{name}" for name in state.files}
    for name, data in state.files.items():
        if places[name] not in folder.hashes:
            folder.add(places[name], data)
    return {"json": dict(state.json), "arrays": sorted(state.arrays), "files": places}


def _pack_input(folder: files.Folder, each: Input, arrays: dict[str, Array]) -> Json:
    packed = {key: getattr(each, key) for key in ("name", "modality", "columns", "processor", "backbone", "settings", "adapt", "lora")}
    state = pack_state(folder, each.state, f"inputs/{each.name}", f"backbones/{each.name}", arrays)
    return {**packed, "backbone": _portable(each.backbone), "state": state, "encode_id": each.encode_id}


def _portable(reference: str) -> str:
    """A backbone's reference without where its folder lies on this machine: its weights are in the model."""
    ref = registry.resolve(reference) if reference else None
    return f"{ref.family}:{ref.folder.name}" if ref and ref.folder else reference


def _pack_graph(spec: GraphSpec) -> Json:
    ports = {"inputs": [asdict(p) for p in spec.inputs], "outputs": [asdict(p) for p in spec.outputs]}
    return {**ports, "weights_id": spec.weights_id, "adapter": spec.adapter, "adapter_id": spec.adapter_id}


# --- reading ----------------------------------------------------------------------------------------------------------


def find(path: Path | str) -> Path:
    """The model folder at `path`: itself, or `model/` of a run folder. Raises MainstemError where there is none."""
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CONTENTS).is_file() or (folder / files.MANIFEST).is_file():
            return folder
    if not path.exists():
        raise MainstemError("there is no such model", where=str(path), do="Give a model folder or a run folder, such as runs/reviews.")
    raise MainstemError("this holds no model", where=str(path), do=f"A model folder has a {CONTENTS}; a run folder has it under model/.")


def check(folder: Path) -> None:
    """Every file against MANIFEST.json. Raises MainstemError that names those that differ; nothing is used before."""
    if wrong := files.broken(folder):
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise MainstemError(
            f"this model is not as it was sealed: {shown}",
            where=str(folder),
            do="Copy it again, or train and seal it again; it is not used.",
        )


def read(folder: Path) -> Artifact:
    """The contents of a model folder. Raises MainstemError on an unknown format or contents that make no sense."""
    try:
        contents = json.loads((folder / CONTENTS).read_bytes())
    except (OSError, ValueError):
        raise MainstemError(f"{CONTENTS} cannot be read", where=str(folder), do="Copy the model again.") from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        found = contents.get("format") if isinstance(contents, dict) else None
        raise MainstemError(
            f"this model has format {found!r}, and this version of mainstem reads format {FORMAT}",
            where=str(folder),
            do="Install the version that wrote it, or seal it again with this one.",
        )
    try:
        return _unpack(folder, contents)
    except MainstemError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise MainstemError(f"{CONTENTS} does not describe a model ({type(error).__name__}: {error})", where=str(folder)) from None


def read_arrays(path: Path) -> dict[str, Array]:
    """Named arrays of a safetensors file. Raises MainstemError where it is none."""
    try:
        arrays: dict[str, Array] = safetensors.numpy.load_file(path)
    except Exception as error:  # the library's own error has no public base
        raise MainstemError(f"these weights cannot be read: {error}", where=str(path), do="Copy the model again.") from None
    return arrays


@dataclass(frozen=True)
class Adapter:
    """LoRA of a backbone: by layer down float32 [rank, in], up [out, rank] and the factor of their product."""

    layers: Mapping[str, tuple[Array, Array, float]]

    @property
    def adapter_id(self) -> str:
        """Id of its weights and factors."""
        downs = {f"{name}.down": down for name, (down, _, _) in self.layers.items()}
        ups = {f"{name}.up": up for name, (_, up, _) in self.layers.items()}
        return weights_id({**downs, **ups}, {name: scale for name, (_, _, scale) in self.layers.items()})


def read_adapter(folder: Path) -> Adapter:
    """The adapter of a folder in PEFT's format. Raises MainstemError for a file that is missing or torn, or another kind of adapter."""
    scale = adapter_scale(folder)
    arrays = read_arrays(inside(folder, ADAPTER_WEIGHTS))
    layers = {}
    for name in sorted({adapter_layer(key, folder) for key in arrays}):
        down, up = (arrays.get(f"{ADAPTER_PREFIX}{name}.{part}.weight") for part in ("lora_A", "lora_B"))
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] > 0:
            raise MainstemError(f"the adapter holds no whole pair for the layer '{name}'", where=str(folder))
        layers[name] = (down.astype(np.float32), up.astype(np.float32), scale(len(down)))
    return Adapter(layers)


def adapter_config(folder: Path) -> Mapping[str, Any]:
    """adapter_config.json of PEFT. Raises MainstemError where it is none, or of an adapter that is not LoRA on linear layers alone."""
    path = inside(folder, ADAPTER_CONFIG)
    try:
        config: Mapping[str, Any] = json.loads(path.read_bytes())
        if config["peft_type"] != "LORA":
            raise MainstemError(f"the adapter is of the kind {config['peft_type']}, not LORA", where=str(path))
        if not math.isfinite(float(config["lora_alpha"])):
            raise ValueError("lora_alpha is not finite")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MainstemError("this is no adapter_config.json of PEFT", where=str(path)) from error
    for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"):
        if config.get(key):
            raise MainstemError(f"adapters with '{key}' cannot be loaded", where=str(path))
    if config.get("bias", "none") != "none":
        raise MainstemError("adapters that train biases cannot be loaded", where=str(path))
    return config


def adapter_scale(folder: Path) -> Callable[[int], float]:
    """Rank → what the product of a pair is multiplied with, alpha/rank or alpha/√rank, as adapter_config.json says."""
    config = adapter_config(folder)
    alpha, root = float(config["lora_alpha"]), bool(config.get("use_rslora"))
    return lambda rank: alpha / (math.sqrt(rank) if root else rank)


def adapter_layer(key: str, folder: Path) -> str:
    """The layer that a weight of an adapter belongs to. Raises MainstemError where it is no LoRA of a linear layer."""
    name, _, part = key.removeprefix(ADAPTER_PREFIX).removesuffix(".weight").rpartition(".")
    if not key.startswith(ADAPTER_PREFIX) or part not in ("lora_A", "lora_B"):
        raise MainstemError(f"the adapter holds '{key}', which is no LoRA of a linear layer", where=str(folder))
    return name


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a model's contents name. Raises MainstemError where it would leave the folder."""
    path = folder / name
    parts = Path(name).parts
    if not name or "\\" in name or "\0" in name or Path(name).is_absolute() or ".." in parts:
        raise MainstemError(f"the path '{name}' leaves the model folder, which is refused", where=str(folder))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MainstemError(f"the path '{name}' leads out of the model folder through a link, which is refused", where=str(folder))
    return path


def safe_name(name: str, what: str = "name") -> str:
    """`name` if it may stand in a path or a URL. Raises MainstemError otherwise."""
    if not _SAFE.fullmatch(name):
        raise MainstemError(f"the {what} '{name}' is not allowed", do="Use lower-case letters, digits, '.', '_' and '-', at most 64.")
    return name


def _unpack(folder: Path, contents: Mapping[str, Any]) -> Artifact:
    arrays = read_arrays(inside(folder, "state.safetensors"))
    schema = contents["schema"]
    return Artifact(
        task=str(contents["task"]),
        settings=_mapping(contents["settings"]),
        schema=Schema(tuple(Column(**c) for c in schema["columns"]), tuple(Column(**c) for c in schema["targets"])),
        inputs=tuple(_unpack_input(folder, each, arrays) for each in contents["inputs"]),
        predictor=str(contents["predictor"]),
        target=unpack_state(folder, contents["target"], "target", arrays),
        state=unpack_state(folder, contents["state"], "state", arrays),
        graphs={safe_name(name, "graph"): _unpack_graph(spec) for name, spec in contents["graphs"].items()},
        about=contents["about"],
    )


def unpack_state(folder: Path, packed: Mapping[str, Any], prefix: str, arrays: Arrays) -> State:
    """The inverse of `pack_state`. Raises MainstemError where a file would lie outside the folder."""
    held = {file: inside(folder, place).read_bytes() for file, place in packed["files"].items()}
    return State(_mapping(packed["json"]), {name: arrays[f"{prefix}/{name}"] for name in packed["arrays"]}, held)


def _unpack_input(folder: Path, packed: Mapping[str, Any], arrays: Arrays) -> Input:
    name = safe_name(packed["name"], "input")
    return Input(
        name=name,
        modality=packed["modality"],
        columns=tuple(packed["columns"]),
        processor=_mapping(packed["processor"]),
        state=unpack_state(folder, packed["state"], f"inputs/{name}", arrays),
        backbone=packed["backbone"],
        settings=_mapping(packed["settings"]),
        adapt=packed["adapt"],
        lora=packed["lora"],
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def _unpack_graph(packed: Mapping[str, Any]) -> GraphSpec:
    adapter = packed["adapter"] and safe_name(packed["adapter"], "adapter")
    ports = _unpack_ports(packed["inputs"]), _unpack_ports(packed["outputs"])
    return GraphSpec(*ports, weights_id=packed["weights_id"], adapter=adapter, adapter_id=packed["adapter_id"])


def _unpack_ports(packed: Iterable[Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(**{**port, "axes": tuple(port["axes"])}) for port in packed)

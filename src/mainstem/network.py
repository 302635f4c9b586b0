"""Backbones, adapters and head put together from a candidate's inputs: the networks that a task trains and ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mainstem import artifact, registry
from mainstem.artifact import Input
from mainstem.contracts import ADAPTER, Backbone, Batch, Feature, GraphSpec, Info, Port, Ref, State, Task
from mainstem.errors import MainstemError


class BackboneNet(torch.nn.Module):
    """A backbone as a graph: a dict of tensors in, the features that heads take out."""

    def __init__(self, plugin: Backbone, module: torch.nn.Module, info: Info) -> None:
        super().__init__()
        self.module = module
        self.plugin, self.info = plugin, info
        self.features: tuple[str, ...] = (info.pooled,)

    def forward(self, arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors named as the info's inputs → the features wanted."""
        features = self.plugin.forward(self.module, arrays)
        return {name: features[name] for name in self.features}

    def spec(self) -> GraphSpec:
        """Its graph."""
        outputs = (Port(name, "float32", (*self.info.features[name].axes, str(self.info.features[name].width))) for name in self.features)
        return GraphSpec(self.info.inputs, tuple(outputs), module=self)


@dataclass(frozen=True)
class Networks:
    """All networks of a model by graph name, with what is needed to save them."""

    modules: Mapping[str, torch.nn.Module]
    refs: Mapping[str, Ref]  # by input name
    inputs: tuple[Input, ...]

    def trainable(self) -> dict[str, torch.nn.Module]:
        """Those that have something to learn."""
        return {name: m for name, m in self.modules.items() if any(p.requires_grad for p in m.parameters())}

    def frozen(self) -> list[str]:
        """Names of the inputs whose backbone learns nothing, so that its features can be kept."""
        return [
            name
            for name in self.refs
            if f"backbone.{name}" not in self.trainable() and any(True for _ in self.modules[f"backbone.{name}"].parameters())
        ]


def reference(each: Input, folder: Path | None = None) -> Ref:
    """The Ref of an input's backbone; `folder` overrides where its weights lie."""
    ref = replace(registry.resolve(each.backbone), settings=each.settings, state=each.state)
    return replace(ref, folder=folder) if folder else ref


def assemble(inputs: Sequence[Input], task: Task, target: State, head: Mapping[str, Any], seed: int, sample: Batch) -> Networks:
    """Build the networks of a candidate, with random weights from `seed` where there are none.

    `sample`: some encoded rows, which show the arrays of inputs without a backbone.
    """
    modules: dict[str, torch.nn.Module] = {}
    refs: dict[str, Ref] = {}
    features = {name: Feature(array.shape[-1], _axes(array)[:-1]) for name, array in sample.direct().items() if array.ndim > 1}
    devices_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        for each in inputs:
            if not each.backbone:
                continue
            refs[each.name] = ref = reference(each)
            plugin = registry.load("backbones", ref.family).plugin
            info = plugin.describe(ref)
            module = plugin.build(ref)
            if each.adapt == "lora":
                from mainstem.nn import lora

                asked = dict(each.lora)
                lora.attach(module, asked.pop("slots", None) or info.slots, seed=seed, **asked)
            elif each.adapt == "probe":
                module.requires_grad_(False)
            modules[f"backbone.{each.name}"] = BackboneNet(plugin, module, info)
            features[f"{each.name}.{info.pooled}"] = info.features[info.pooled]
        modules.update(task.networks(features, target, head))
    finally:
        torch.set_rng_state(devices_state)
    return Networks(modules, refs, tuple(inputs))


def _axes(array: np.ndarray[Any, Any]) -> tuple[str, ...]:
    return ("row", *(str(size) for size in array.shape[1:]))


def backbone_specs(networks: Networks) -> dict[str, GraphSpec]:
    """The graphs of the backbones."""
    return {name: m.spec() for name, m in networks.modules.items() if isinstance(m, BackboneNet)}


def specs(networks: Networks, task: Task, state: State, sample: Batch) -> dict[str, GraphSpec]:
    """The graphs to ship: those of the backbones, the head's as one dry run shows it, and what the task makes of them."""
    known = backbone_specs(networks)
    if "head" in networks.modules and type(task).graphs is Task.graphs:
        inputs = tuple(
            replace(port, name=f"{name.removeprefix('backbone.')}.{port.name}") for name, spec in known.items() for port in spec.outputs
        )
        for name, array in sample.direct().items():
            inputs += (Port(name, "float32" if array.dtype == np.float64 else str(array.dtype), _axes(array)),)
        known["head"] = GraphSpec(inputs, _dry_run(networks.modules["head"], inputs), module=networks.modules["head"])
    made = task.graphs(networks.modules, known, state)
    return {name: _adapted(name, replace(spec, weights_id=identify(name, spec, networks, task)), networks) for name, spec in made.items()}


def _adapted(name: str, spec: GraphSpec, networks: Networks) -> GraphSpec:
    """The graph with the input that chooses an adapter where its backbone can take one, and with the adapter that it has.

    Raises MainstemError where it holds several backbones of which one is adapted: a row of a graph has one adapter.
    """
    own = set(spec.module.modules()) if spec.module is not None else set()
    held = [(each, net) for each in networks.inputs if isinstance(net := networks.modules.get(f"backbone.{each.name}"), BackboneNet)]
    held = [(each, net) for each, net in held if net.module in own]
    if len(held) > 1 and any(each.adapt == "lora" for each, _ in held):
        raise MainstemError(
            f"the graph '{name}' runs the backbones of {' and '.join(each.name for each, _ in held)}, and can hold one adapter alone",
            do="Train with --adapt probe or full, or have the task give every backbone a graph of its own.",
        )
    if len(held) != 1:
        return spec
    [(each, net)] = held
    if each.adapt == "lora":
        from mainstem.nn import lora

        return replace(spec, inputs=(*spec.inputs, ADAPTER), adapter=each.name, adapter_id=lora.adapter_id(net.module))
    return replace(spec, inputs=(*spec.inputs, ADAPTER)) if net.info.slots else spec


@contextmanager
def without_adapters(module: torch.nn.Module) -> Iterator[None]:
    """The module over the weights of its backbones alone, while this is held: what is written as its graph."""
    from mainstem.nn import lora

    with lora.without(module):
        yield


def _dry_run(module: torch.nn.Module, inputs: Sequence[Port]) -> tuple[Port, ...]:
    """Output ports of a single-pass head: rows first, everything else of fixed size."""
    training = module.training
    module.eval()
    with torch.inference_mode():
        tensors = {p.name: torch.zeros([int(a) if a.isdigit() else 2 for a in p.axes], dtype=getattr(torch, p.dtype)) for p in inputs}
        outputs = module(tensors)
    module.train(training)
    return tuple(
        Port(name, str(t.dtype).removeprefix("torch."), ("row", *(str(size) for size in t.shape[1:]))) for name, t in outputs.items()
    )


def identify(name: str, spec: GraphSpec, networks: Networks, task: Task) -> str:
    """weights_id of one graph: of a backbone the same for all tasks, whatever their adapters, of the others the task's own."""
    config: Any = {"outputs": [p.name for p in spec.outputs]}
    ref = networks.refs.get(name.removeprefix("backbone."))
    if name.startswith("backbone.") and ref:
        config.update(graph="backbone", family=ref.family, settings=dict(ref.settings))
    else:
        config.update(graph=name, task=[type(task).__module__, type(task).__qualname__], settings=task.settings)
    module = spec.module
    if module is None:
        return ""
    return artifact.weights_id({n: to_numpy(t) for n, t in module.state_dict().items() if ".lora_" not in n}, config)


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor's values on the host; bfloat16 as its bits."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def adapters(networks: Networks) -> dict[str, bytes]:
    """The files of the adapters, in PEFT's format: adapters/NAME/…"""
    files: dict[str, bytes] = {}
    for each in networks.inputs:
        if each.backbone and each.adapt == "lora":
            from mainstem.nn import lora

            net: Any = networks.modules[f"backbone.{each.name}"]
            files.update({f"adapters/{each.name}/{name}": content for name, content in lora.save(net.module).items()})
    return files


def weights(networks: Networks) -> dict[str, dict[str, bytes | Path]]:
    """The files of the other weights by folder: backbones/NAME/…, and "" for head.safetensors."""
    result: dict[str, dict[str, bytes | Path]] = {}
    for each in networks.inputs:
        if each.backbone:
            net: Any = networks.modules[f"backbone.{each.name}"]
            result[f"backbones/{each.name}"] = net.plugin.save(net.module, networks.refs[each.name])
    own = {
        f"{name}.{key}": to_numpy(t)
        for name, m in networks.modules.items()
        if not isinstance(m, BackboneNet)
        for key, t in m.state_dict().items()
    }
    result[""] = {"head.safetensors": artifact.pack_arrays(own)}
    return result

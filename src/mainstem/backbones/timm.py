"""Any picture network of the timm library: `timm:NAME` (weights from the hub) or `timm:FOLDER` (config.json and model.safetensors).

A folder is read and written in timm's own hub format, so that timm.create_model("local-dir:FOLDER", pretrained=True) loads
what is saved here. Weights are safetensors alone; what a folder says is looked up in timm's own list of networks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mainstem.backbones import _own, _picture
from mainstem.contracts import Feature, Info, Ref
from mainstem.errors import MainstemError, MissingExtra, suggest

Config = dict[str, Any]  # config.json of a timm folder: architecture, num_classes, num_features, pretrained_cfg, model_args
POOLED = "pooled_features"  # our key in it: the width before the classifier, where it is not num_features
SIZE: Config = {"size": 0}  # 0: the one it was trained with
# Where timm would fetch weights from, by itself and as pickles: never followed.
SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
PLACES = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "kwargs_filter", "features_only")


class Timm:
    """The plug-in, and that of the classics by name: `fresh` tells the config of a network that has no folder yet.

    Settings: size (pixels an edge), and `more` by name with their defaults.
    """

    def __init__(self, fresh: Callable[[Ref], Config], **more: Any) -> None:
        self.fresh, self.defaults = fresh, {**SIZE, **more}

    def describe(self, ref: Ref) -> Info:
        """Features "pooled" [row, D] and, where the size of it can be told, "map" [row, h, w, W]."""
        config = self._config(ref)
        cfg = config["pretrained_cfg"]
        channels, *size = cfg["input_size"]
        pretrained = ref.folder is not None or bool(config.get("fetch"))
        return Info(
            "image",
            inputs=(_picture.port((size[0], size[1]), channels),),
            features=_features(config, ref.folder),
            pooled="pooled",
            processor={
                "size": size,
                "resize": cfg.get("interpolation", "bicubic"),
                "crop": "squash" if cfg.get("crop_mode") == "squash" else cfg.get("crop_pct", 0.875),
                "mean": list(cfg["mean"]),
                "std": list(cfg["std"]),
                "channels": channels,
            },
            parameters=config.get("parameters") or _parameters(config, ref.folder),
            licence=cfg.get("license") or "" if pretrained else "",
            extra="train",
            slots=("attn.qkv", "attn.proj") if _attends(config, ref.folder) else (),
            pretrained=pretrained,
            summary=f"{config['architecture']} of timm",
        )

    def build(self, ref: Ref) -> Any:
        """timm's module without its classifier. Raises MainstemError where weights are missing, or cannot be fetched."""
        timm = _library()
        config = self._config(ref)
        path = ref.folder / _own.WEIGHTS if ref.folder else _fetch(ref, config["fetch"]) if config.get("fetch") else None
        weights = _read(path) if path else None
        cfg = {key: value for key, value in config["pretrained_cfg"].items() if key not in SOURCES}
        cfg["num_classes"] = config.get("num_classes", cfg.get("num_classes", 0))
        try:
            module = timm.create_model(
                config["architecture"],
                pretrained=weights is not None,
                pretrained_cfg=cfg,
                pretrained_cfg_overlay={"state_dict": weights} if weights else None,
                num_classes=0,
                **config.get("model_args", {}),
            )
        except (RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise MainstemError(f"the network cannot be built: {' '.join(str(error).split())}", where=str(path or ref.text)) from error
        missing = [name for name, _ in module.named_parameters() if weights and name not in weights]
        if missing:
            raise MainstemError(f"the weights lack '{missing[0]}' ({len(missing)} are missing)", where=str(path))
        module.gives_map = "map" in _features(config, ref.folder)
        return module

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """pixels [row, channels, H, W] → the features."""
        x = module.forward_features(arrays["pixels"])
        kernel = getattr(getattr(module, "pre_logits", None), "input_kernel_size", 1)  # vgg: small maps are stretched to 7 × 7
        small = kernel > 1 and min(x.shape[-2:]) < kernel
        output = {"pooled": module.forward_head(_picture.pool_to(x, (kernel, kernel)) if small else x, pre_logits=True)}
        if module.gives_map:
            output["map"] = _map(module, x)
        return output

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json and model.safetensors; what nobody changed is linked to the folder that it came from."""
        config = self._config(ref)
        if ref.folder and _unchanged(module, ref.folder / _own.WEIGHTS):
            weights: bytes | Path = ref.folder / _own.WEIGHTS
            if config == _own.config(ref):
                return {"config.json": ref.folder / "config.json", _own.WEIGHTS: weights}
        else:
            from safetensors.torch import save

            config["pretrained_cfg"]["num_classes"] = config["num_classes"] = 0
            config[POOLED] = self.describe(ref).features["pooled"].width
            weights = save(_tensors(module), metadata={"format": "pt"})
        config["pretrained_cfg"] = {key: value for key, value in config["pretrained_cfg"].items() if key not in SOURCES}
        for ours in ("fetch", "parameters", "attends"):
            config.pop(ours, None)
        return {"config.json": (json.dumps(config, ensure_ascii=False, indent=1) + "\n").encode(), _own.WEIGHTS: weights}

    def _config(self, ref: Ref) -> Config:
        """The config with the size that was asked for. A copy: the caller may change it."""
        settings = _own.settings(Ref(ref.text, ref.family, settings=ref.settings), self.defaults)
        config = _own.config(ref) if ref.folder else json.loads(json.dumps(self.fresh(ref)))
        where = str(ref.folder or ref.text)
        if ref.folder:
            _refuse_places(config, where)
        cfg = config.get("pretrained_cfg")
        if not isinstance(config.get("architecture"), str) or not isinstance(cfg, dict) or not {"input_size", "mean", "std"} <= cfg.keys():
            raise MainstemError("config.json is not that of a timm model", where=where, do="It needs architecture and pretrained_cfg.")
        return _resized(config, settings["size"]) if settings["size"] else config


def new(architecture: str, size: int, width: int, pooled: int, parameters: int, *, grid: int = 0, **model_args: Any) -> Config:
    """The config of a network without weights: `size` pixels an edge, `grid` × `grid` positions in the map of a convolutional one."""
    cfg = {
        "input_size": [3, size, size],
        "fixed_input_size": not grid,
        "pool_size": [grid, grid] if grid else None,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 0,
    }
    names = {"architecture": architecture, "num_classes": 0, "num_features": width, POOLED: pooled}
    return {**names, "parameters": parameters, "attends": not grid, "pretrained_cfg": cfg, "model_args": model_args}


def variant(ref: Ref, known: Collection[str], default: str) -> str:
    """What follows the family's name. Raises MainstemError with the nearest known one."""
    asked = ref.variant or default
    if asked not in known:
        dash = "" if asked[0].isdigit() else "-"
        names = [f"{ref.family}{dash}{name}" for name in known]
        raise MainstemError(f"there is no '{ref.text}'", do=suggest(f"{ref.family}{dash}{asked}", names))
    return asked


def _refuse_places(config: Config, where: str) -> None:
    """Raise MainstemError where a folder's config would make timm read weights, often pickles, from elsewhere."""
    named = config.get("model_args", {})
    wrong = [name for name in named if name in PLACES] if isinstance(named, dict) else ["model_args"]
    if not re.fullmatch(r"\w[\w.]*", str(config.get("architecture"))):
        wrong.append("architecture")
    if wrong:
        raise MainstemError(f"config.json may not say '{wrong[0]}' like this: it would read something else", where=where)


def _resized(config: Config, size: int) -> Config:
    cfg = config["pretrained_cfg"]
    channels, high, wide = cfg["input_size"]
    if (high, wide) == (size, size):
        return config
    cfg["input_size"] = [channels, size, size]
    if cfg.get("fixed_input_size"):
        config["model_args"] = {**config.get("model_args", {}), "img_size": size}
    elif cfg.get("pool_size"):
        step = high // cfg["pool_size"][0]  # of 32, as a rule; elsewhere networks round differently, so no map is promised
        whole = step in (4, 8, 16, 32, 64) and high % step == size % step == 0 and high == wide
        cfg["pool_size"] = [size // step, size // step] if whole else None
    return config


def _features(config: Config, folder: Path | None) -> dict[str, Feature]:
    cfg, width = config["pretrained_cfg"], config.get("num_features")
    pooled = config.get(POOLED) or _classifier_width(config, folder) or width
    if not pooled or not width:
        raise MainstemError("config.json does not say num_features", where=str(folder or config["architecture"]))
    _, high, wide = cfg["input_size"]
    grid = cfg.get("pool_size") or ((high // _patch(config), wide // _patch(config)) if _patch(config) else None)
    return _picture.features(pooled, width, (grid[0], grid[1])) if grid else {"pooled": Feature(pooled)}


def _patch(config: Config) -> int:
    """The edge of a vision transformer's patches, 0 for other networks."""
    match = re.match(r"(?:vit|deit)\w*_patch(\d+)_", config["architecture"])
    return config.get("model_args", {}).get("patch_size", int(match[1])) if match else 0


def _attends(config: Config, folder: Path | None) -> bool:
    """Whether it has attention as timm names it."""
    return bool(config.get("attends")) or any(name.endswith("attn.qkv.weight") for name in _shapes(folder))


def _map(module: Any, x: Any) -> Any:
    """The last features as [row, h, w, width]: of a convolutional network, or the tokens of a transformer."""
    if x.ndim == 3:
        high, wide = module.patch_embed.grid_size
        return x[:, module.num_prefix_tokens :].reshape(-1, high, wide, x.shape[-1])
    return x if str(getattr(module, "output_fmt", "")) == "NHWC" else _picture.map_last(x)


def _shapes(folder: Path | None) -> dict[str, list[int]]:
    """The shapes of the weights by name, from the header of the file alone."""
    if folder is None or not (folder / _own.WEIGHTS).is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _own.WEIGHTS, framework="numpy") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise MainstemError(f"the weights cannot be read: {error}", where=str(folder / _own.WEIGHTS)) from error


def _classifier(config: Config) -> str:
    name = config["pretrained_cfg"].get("classifier") or ""
    return name if isinstance(name, str) else name[0]


def _classifier_width(config: Config, folder: Path | None) -> int | None:
    """The width that the classifier of the saved weights takes."""
    shape = _shapes(folder).get(f"{_classifier(config)}.weight")
    return shape[1] if shape else None


def _parameters(config: Config, folder: Path | None) -> int | None:
    """How many parameters the weights hold, classifier and running statistics left out."""
    head, sizes = _classifier(config), 0
    for name, shape in _shapes(folder).items():
        if not (head and name.startswith(f"{head}.")) and name.rpartition(".")[2] not in (
            "running_mean",
            "running_var",
            "num_batches_tracked",
        ):
            size = 1
            for n in shape:
                size *= n
            sizes += size
    return sizes or None


def _read(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise MainstemError(
            "there is no such file; only safetensors are read", where=str(path), do="Save the model again with safetensors."
        ) from error
    except (OSError, SafetensorError) as error:
        raise MainstemError(f"the weights cannot be read: {error}", where=str(path)) from error


def _tensors(module: Any) -> dict[str, Any]:
    """The weights of the family's own network; those of LoRA have files of their own."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items() if ".lora_" not in name}


def _unchanged(module: Any, path: Path) -> bool:
    import torch

    there = _read(path)
    return all(name in there and torch.equal(tensor, there[name]) for name, tensor in _tensors(module).items())


def _library() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("a timm backbone", "train", "timm") from error
    return timm


def _fetch(ref: Ref, repository: str) -> Path:
    """The weights on the hub, or in its cache."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, _own.WEIGHTS))
    except OSError as error:
        raise MainstemError(
            f"the weights of '{ref.text}' could not be fetched from the hub ({type(error).__name__})",
            do="Give a folder that holds them, timm:FOLDER, or set pretrained to false to train from scratch.",
        ) from error


def named(ref: Ref) -> Config:
    """The config of timm:NAME; "fetch" is the repository on the hub that holds its weights."""
    config = _named(ref.variant, ref.settings.get("size", 0))
    if not ref.settings.get("pretrained", True):
        cfg = {key: value for key, value in config["pretrained_cfg"].items() if key != "license"}  # that of the weights left aside
        return {**config, "fetch": "", "pretrained_cfg": cfg}
    if not config["fetch"]:
        raise MainstemError(f"timm has no pretrained weights of '{ref.variant}'", do="Set pretrained to false to train from scratch.")
    return config


@lru_cache(maxsize=32)
def _named(name: str, size: int) -> Config:
    timm = _library()
    if not timm.is_model(name):
        if "/" in name or "\\" in name:
            raise MainstemError(f"there is no folder '{name}'", do="timm: takes the name of a network or a folder with config.json.")
        raise MainstemError(f"timm has no network named '{name}'", do=suggest(name, timm.list_models()).partition("Known")[0].strip())
    import torch

    fixed = size and timm.get_pretrained_cfg(name).fixed_input_size
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0, img_size=size if fixed else None)
    kept = {key: value for key, value in module.pretrained_cfg.items() if value is not None and key not in SOURCES}
    return {
        "architecture": kept.pop("architecture"),
        "num_classes": kept.get("num_classes", 0),
        "num_features": module.num_features,
        POOLED: getattr(module, "head_hidden_size", None) or module.num_features,
        "parameters": sum(p.numel() for p in module.parameters()),
        "attends": any(name.endswith("attn.qkv") for name, _ in module.named_modules()),
        "fetch": module.pretrained_cfg.get("hf_hub_id") or "",
        "pretrained_cfg": kept,
        "model_args": {},
    }


plugin = Timm(named, pretrained=True)

"""`cnn_series`: convolutions over the steps of a window, pooled (Wang, Yan & Oates 2017, arXiv:1611.06455)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own
from mainstem.contracts import Feature, Info, Port, Ref

DEFAULTS = {"width": 64, "dropout": 0.2}


class Cnn:
    """A network over values and whether they are known."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        s = _own.settings(ref, DEFAULTS)
        fitted = ref.state.json
        shape = str(fitted.get("window", 1)), str(len(fitted.get("channels", [""])))
        return Info(
            modality="series",
            inputs=tuple(Port(name, "float32", ("row", *shape)) for name in ("values", "known")),
            features={"pooled": Feature(2 * s["width"])},
            pooled="pooled",
            processor={"fill": "season", "scaling": "data"},
            extra="train",
            pretrained=ref.folder is not None,
            summary="small CNN over the steps of a series, trained from scratch",
        )

    def build(self, ref: Ref) -> Any:
        """nn.Module, random until ref.folder has weights."""
        _own.need_torch("cnn_series")
        from mainstem.nn.series import Convolutions

        s = _own.settings(ref, DEFAULTS)
        return _own.load(Convolutions(_channels(ref), s["width"], s["dropout"]), ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """values, known [row, L, C] → pooled [row, 2·width]."""
        return {"pooled": module(arrays["values"], arrays["known"])}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json, model.safetensors."""
        return _own.save(module, ref, _own.settings(ref, DEFAULTS), channels=_channels(ref))


def _channels(ref: Ref) -> int:
    return int(_own.config(ref).get("channels") or len(ref.state.json.get("channels", [""])))


plugin = Cnn()

"""`gru_series`: gated recurrent units over the steps of a series, history and horizon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstem.backbones import _own
from mainstem.contracts import Feature, Info, Port, Ref

DEFAULTS = {"width": 64, "layers": 1, "dropout": 0.1, "length": 96}


class Gru:
    """A network over values, whether they are known, calendar and covariates. Setting length: steps of history that it reads."""

    def describe(self, ref: Ref) -> Info:
        """What it is. Raises MainstemError for an unknown setting."""
        s = self._settings(ref)
        fitted = ref.state.json
        horizon, length = fitted.get("horizon", 1), min(s["length"], fitted.get("window", s["length"]))
        channels = len(fitted.get("channels", [""]))
        steps = str(length + horizon)
        ports = [
            Port("values", "float32", ("row", str(length), str(channels))),
            Port("known", "float32", ("row", str(length), str(channels))),
        ]
        ports += [Port("naive", "float32", ("row", str(horizon))), Port("spread", "float32", ("row", "1"))]
        ports += [Port(name, "float32", ("row", steps, str(width))) for name, width in _beside(ref).items() if width]
        return Info(
            modality="series",
            inputs=tuple(ports),
            features={"steps": Feature(s["width"], ("row", str(horizon)))},
            pooled="steps",
            processor={"fill": "season", "calendar": "all", "length": s["length"]},
            extra="train",
            pretrained=ref.folder is not None,
            summary="GRU over the steps of a series, trained from scratch",
        )

    def build(self, ref: Ref) -> Any:
        """nn.Module, random until ref.folder has weights."""
        _own.need_torch("gru_series")
        from mainstem.nn.series import Steps

        s = self._settings(ref)
        channels = _own.config(ref).get("channels") or len(ref.state.json.get("channels", [""]))
        return _own.load(Steps(channels, sum(_beside(ref).values()), s["width"], s["layers"], s["dropout"]), ref)

    def forward(self, module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """values, known [row, L, C], naive [row, H], spread [row, 1], calendar and future [row, L + H, …] → steps [row, H, width]."""
        ahead = [arrays[name] for name in ("calendar", "future") if name in arrays]
        return {"steps": module(arrays["values"], arrays["known"], arrays["naive"], arrays["spread"], ahead)}

    def save(self, module: Any, ref: Ref) -> dict[str, bytes | Path]:
        """config.json, model.safetensors."""
        return _own.save(module, ref, self._settings(ref), channels=len(ref.state.json.get("channels", [""])), beside=_beside(ref))

    def _settings(self, ref: Ref) -> dict[str, Any]:
        return _own.settings(ref, DEFAULTS)


def _beside(ref: Ref) -> dict[str, int]:
    """Widths of calendar and covariates."""
    kept = _own.config(ref).get("beside")
    fitted = ref.state.json
    return kept or {"calendar": 2 * len(fitted.get("phases", ())), "future": len(fitted.get("futures", ()))}


plugin = Gru()

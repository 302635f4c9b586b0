"""`contrastive`: find what belongs together among all others of a batch: two views of a text or picture, two texts, a text and a picture.

What DATA holds says which. One backbone reads both sides of a pair, and the published special cases are SimCLR (pictures), SimCSE (Gao et
al. 2021, arXiv:2104.08821: a text with two draws of dropout) and the parts of a text (Izacard et al. 2021, Contriever, arXiv:2112.09118);
or a text is to be found where its neighbours are (_neighbours.py); or each side has a backbone of its own, and two come out (CLIP).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from mainstem import registry
from mainstem.backbones._own import to_json
from mainstem.contracts import Array, Batch, Feature, Material, Objective, Ref, State, Stream
from mainstem.errors import MainstemError
from mainstem.objectives import _pairs
from mainstem.objectives._settings import checked
from mainstem.objectives._streams import Looked, Passes

_SIDES = ("first", "second")
# by kind: temperature (0: learned), channels of the space (0: those of the backbone), whether both sides are of one kind
_SUITED = {
    "texts": (0.05, 0, True),
    "neighbours": (0.05, 0, False),
    "pairs": (0.05, 0, False),
    "pictures": (0.2, 128, True),
    "captions": (0.0, 128, False),
}
_START = 0.07  # where a temperature that is learned begins


class Contrastive(Objective):
    """A loss over the whole batch. What stands between backbone and loss is thrown away afterwards."""

    batch_coupled, in_parts, reads = True, True, "texts or pictures"
    defaults: ClassVar[Mapping[str, Any]] = {
        "views": "parts",  # of one text: parts, or dropout; neighbours: what a brought backbone makes of those that share its words
        "temperature": None,  # 0: learned; by default 0.05 for texts, 0.2 for pictures, learned between the two
        "projection": None,  # channels that pairs are compared in, 0: the features themselves; by default 128 where there are pictures
        "length": 0,  # tokens of a text; 0: as many as the backbone takes by default
        "crop": 0.3,  # of pictures: the smallest share of the area that is drawn
        "flip": True,
        "color": 0.4,
        "hue": 0.1,
        "grey": 0.2,  # how often a picture loses its colours
        "held_out": 0.05,  # share of the pairs that is only looked at
        "looked_at": 256,  # of them, at most: what a partner is looked for among
    }

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(checked("contrastive", self.defaults, settings, {"views": _pairs.VIEWS}))

    @classmethod
    def training(cls, *, pretrained: bool) -> Mapping[str, Any]:
        """AdamW with a cosine, gentler and shorter where it goes on from weights."""
        suited = {"optimizer": "adamw", "weight_decay": 0.01, "betas": (0.9, 0.98), "clip": 1.0, "schedule": "cosine", "warmup": 0.1}
        suited |= {"batch_size": 64, "group_by_length": True, "precision": "auto"}
        return suited | ({"lr": 2e-5, "epochs": 2} if pretrained else {"lr": 5e-4, "epochs": 30})

    def open(self, material: Material) -> None:
        """See what the data holds, and read it by the backbones. Raises MainstemError where they do not fit together."""
        kind, data = _pairs.kind_of(material)
        if kind == "texts" and self.settings["views"] == "neighbours":
            if self.settings["projection"]:
                raise MainstemError("neighbours are compared by the features themselves", where="settings.projection", do="Leave it out.")
            kind = "neighbours"
        if kind == "captions":
            source: Any = _pairs.Captions(data, _two(material), material, self.settings)
        else:
            ref = _one(material, "vit" if kind == "pictures" else "bert")
            families = {"texts": _pairs.TextViews, "neighbours": _pairs.TextNeighbours, "pairs": _pairs.TextPairs}
            source = {**families, "pictures": _pairs.PictureViews}[kind](data, ref, material, self.settings)
        self.source, self.kind, self.taken = source, kind, source.taken
        self.plugins = {name: registry.load("backbones", read.ref.family).plugin for name, read in source.read.items()}

    def stream(self, length: int) -> Stream:
        """The pairs to learn from."""
        return Passes(partial(self.batch, False), self.source.sizes[0], length, self.source.lengths)

    def held_out(self) -> Stream:
        """Some held-out pairs."""
        return Looked(partial(self.batch, True), self.source.sizes[1], int(self.settings["looked_at"]))

    def batch(self, held_out: bool, indices: Array, rng: np.random.Generator | None) -> Batch:
        """Pairs as the inputs "first" and "second"."""
        sides = self.source.take(held_out, indices, rng)
        return Batch(dict(zip(_SIDES, sides, strict=True)), np.arange(len(indices)), len(indices), _SIDES)

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"backbone.text" or "backbone.image", or both: the family's module, "head"}."""
        from mainstem.nn import contrast

        temperature, projection, _ = _SUITED[self.kind]
        temperature = temperature if self.settings["temperature"] is None else float(self.settings["temperature"])
        projection = projection if self.settings["projection"] is None else int(self.settings["projection"])
        widths = {name: read.info.features[read.info.pooled].width for name, read in self.source.read.items()}
        if not projection and len(set(widths.values())) > 1:
            raise MainstemError("features of two widths cannot be compared", where="settings.projection", do="For example 128.")
        made = {f"backbone.{name}": plugin.build(self.source.read[name].ref) for name, plugin in self.plugins.items()}
        head = contrast.Head(
            widths, projection, hidden=self.kind == "pictures", temperature=temperature or _START, learned=temperature == 0
        )
        return {**made, "head": head}

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """ "first" and "second": points of length 1, and the "factor" of their cosines."""
        from mainstem.nn import contrast

        output = {"factor": networks["head"].factor()}
        for side, tower in zip(_SIDES, self.source.towers, strict=True):
            if not tower:
                output[side] = batch.inputs[side]["features"]
                continue
            run = partial(self._pooled, networks[f"backbone.{tower}"], tower)
            features = contrast.features(run, batch.inputs[side], int(batch.meta.get("parts", 1)))
            output[side] = networks["head"](features, tower)
        return output

    def _pooled(self, module: Any, tower: str, arrays: Mapping[str, Any]) -> Any:
        return self.plugins[tower].forward(module, arrays)[self.source.read[tower].info.pooled]

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """InfoNCE, both ways; of neighbours the cross entropy of a text's likenesses to the averages of others."""
        from mainstem.nn import contrast

        if self.kind == "neighbours":
            return contrast.likeness(output["first"], output["second"], self.source.others, output["factor"])
        return contrast.info_nce(output["first"], output["second"], output["factor"], one_space=_SUITED[self.kind][2])

    def measure(self, output: Mapping[str, Any], batch: Any) -> dict[str, float]:
        """How often the nearest of the others is the partner: retrieval accuracy at 1 among the pairs looked at."""
        from mainstem.nn import contrast

        return {"retrieval_at_1": float(contrast.found(output["first"], output["second"]))}

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """The family's folder; of two backbones one folder each, text/ and image/."""
        made = {}
        for name, plugin in self.plugins.items():
            place = f"{name}/" if len(self.plugins) > 1 else ""
            saved = plugin.save(networks[f"backbone.{name}"], self.source.read[name].ref)
            if name == "text" and "tokenizer_config.json" not in saved:
                saved["tokenizer_config.json"] = to_json(self.source.read[name].config())
            for file, content in saved.items():
                made[place + file] = content if isinstance(content, bytes) else content.read_bytes()
        return made


def _one(material: Material, suggested: str) -> Ref:
    if material.backbone is None:
        raise MainstemError(
            "both sides of these pairs are read by one backbone, and none or several are named", do=f"For example --backbone {suggested}."
        )
    return material.backbone


def _two(material: Material) -> Mapping[str, Ref]:
    if set(material.towers) != {"text", "image"}:
        raise MainstemError(
            "texts and pictures are read by a backbone each, which are not both named",
            do="For example --backbone text=bert --backbone image=vit.",
        )
    return material.towers


plugin = Contrastive

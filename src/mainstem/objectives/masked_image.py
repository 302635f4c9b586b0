"""`masked-image`: see a quarter of a picture's patches and predict the others (MAE, He et al. 2022, arXiv:2111.06377).

Of the published ways this one suits small networks and few pictures best. The encoder sees the shown patches alone, so that a step
costs about a third of one over whole pictures with mask tokens (SimMIM, Xie et al. 2022); and what a prediction of pixels needs is
left to a decoder that is thrown away, so that the features serve a probe without fine-tuning, which those of SimMIM hardly do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mainstem import registry
from mainstem.contracts import Array, Batch, Feature, Material, Objective, State, Stream
from mainstem.data import pictures
from mainstem.data.texts import Texts
from mainstem.errors import MainstemError
from mainstem.modalities import image
from mainstem.objectives import _album
from mainstem.objectives._settings import checked
from mainstem.objectives._streams import Looked, Passes

_HELD_OUT = 9  # seed of what is shown of held-out pictures


class MaskedImage(Objective):
    """Pictures are drawn as random parts of themselves; labels are not looked at."""

    reads = "pictures"
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 0.75,  # share of the patches
        "width": 0,  # of the decoder; 0: half of the encoder's
        "layers": 2,  # of the decoder
        "crop": 0.3,  # the smallest share of a picture's area that is drawn; 1: whole pictures
        "flip": True,
        "held_out": 0.05,  # share of the pictures that is only looked at
        "looked_at": 256,  # of them, at most
    }

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(checked("masked-image", self.defaults, settings))
        if not 0 < self.settings["hidden"] < 1:
            raise MainstemError("of each picture a part is hidden and a part is shown", where="settings.hidden", do="For example 0.75.")

    @classmethod
    def training(cls, *, pretrained: bool) -> Mapping[str, Any]:
        """AdamW with a cosine as the paper has it; a higher rate, since small networks bear it."""
        suited = {"optimizer": "adamw", "weight_decay": 0.05, "betas": (0.9, 0.95), "clip": 1.0, "schedule": "cosine", "warmup": 0.1}
        suited |= {"batch_size": 64, "precision": "auto"}
        return suited | ({"lr": 3e-4, "epochs": 30} if pretrained else {"lr": 1e-3, "epochs": 100})

    def open(self, material: Material) -> None:
        """Find the pictures. Raises MainstemError where there are none, or the backbone does not read them."""
        if material.backbone is None:
            raise MainstemError(
                "the objective 'masked-image' does not know what to train", do="Name a backbone: --backbone vit, or timm:FOLDER."
            )
        self.ref, self.info = material.backbone, _album.described(material.backbone, "vit")
        self.plugin = registry.load("backbones", self.ref.family).plugin
        if not material.inputs and pictures.is_folder(material.data):
            listed = pictures.of_folder(material.data)
        else:
            table = Texts(material.data, material.inputs, material.encoding, wanted=("image",))
            for note in table.notes:
                material.say(note)
            if len(table.columns) != 1 or not pictures.holds_pictures(table)[0]:
                raise MainstemError(
                    f"{' and '.join(map(repr, table.columns)) or 'this'} names no pictures", where=str(table.path), do="--input COLUMN."
                )
            listed = pictures.of_table(table)
        self.train, self.looked_at = _album.opened(listed, material, float(self.settings["held_out"]))

    def taken(self) -> float:
        """The share of the pictures that were looked at."""
        return self.train.taken

    def stream(self, length: int) -> Stream:
        """The pictures to learn from."""
        return Passes(lambda indices, rng: self.batch(self.train, indices, rng), len(self.train), length)

    def held_out(self) -> Stream:
        """Some held-out pictures, whole."""
        return Looked(lambda indices, rng: self.batch(self.looked_at, indices, rng), len(self.looked_at), int(self.settings["looked_at"]))

    def batch(self, album: _album.Album, indices: Array, rng: np.random.Generator | None) -> Batch:
        """Pictures with the numbers of the patches that are shown, "shown" (int64 [rows, K], rising)."""
        augment = {"crop": self.settings["crop"], "flip": self.settings["flip"]}
        arrays, _ = image.plugin.encode(album.take(indices), {**self.info.processor, "augment": augment}, State(), rng)
        high, wide = (int(size) for size in self.info.features["map"].axes[1:])
        patches = high * wide
        if rng is not None:
            drawn = rng.random((len(indices), patches))
        else:
            drawn = np.stack([np.random.default_rng((_HELD_OUT, index)).random(patches) for index in indices.tolist()])
        count = min(max(1, round(patches * (1 - self.settings["hidden"]))), patches - 1)
        shown = np.sort(np.argsort(drawn, axis=1)[:, :count], axis=1)
        return Batch({"image": arrays}, np.arange(len(indices)), len(indices), ("image",), {"shown": shown})

    def networks(self, features: Mapping[str, Feature], target: State, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{"backbone": timm's module, "decoder"}. Raises MainstemError for a network that is no vision transformer."""
        from mainstem.nn import autoencoder

        module = self.plugin.build(self.ref)
        if not autoencoder.is_encoder(module) or "map" not in self.info.features:
            raise MainstemError(
                f"the backbone '{self.ref.text}' is no vision transformer, so no patches can be hidden from it",
                do="For example --backbone vit, or another objective: --objective contrastive.",
            )
        channels = int(self.info.inputs[0].axes[1])
        width = int(self.settings["width"]) or module.embed_dim // 2
        return {"backbone": module, "decoder": autoencoder.Decoder(module, width, int(self.settings["layers"]), channels)}

    def forward(self, networks: Mapping[str, Any], batch: Any) -> dict[str, Any]:
        """ "errors" by row."""
        from mainstem.nn import autoencoder

        pixels, shown = batch.inputs["image"]["pixels"], batch.target["shown"]
        return {"errors": networks["decoder"](autoencoder.encode(networks["backbone"], pixels, shown), shown, pixels)}

    def loss(self, output: Mapping[str, Any], batch: Any) -> Any:
        """Their mean."""
        return output["errors"].mean()

    def artifact(self, networks: Mapping[str, Any]) -> dict[str, bytes]:
        """The folder that timm reads; the decoder is left behind."""
        saved = self.plugin.save(networks["backbone"], self.ref)
        return {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in saved.items()}


plugin = MaskedImage

"""Two backbones of two modalities that learn to agree (CLIP's loss, arXiv:2103.00020): a loss over the whole batch."""

import numpy as np

from mainstem.contracts import Prediction, Task


class Towers(Task):
    inputs, batch_coupled, tolerance = {"caption": "text", "picture": "image"}, True, 1e-3

    def head(self, features, target):
        from torch.nn import Linear, Module, ModuleDict
        from torch.nn.functional import normalize

        class Head(Module):
            def __init__(self):
                super().__init__()
                self.names = {name.split(".")[0]: name for name in features}
                self.project = ModuleDict({role: Linear(features[name].width, 16) for role, name in self.names.items()})

            def forward(self, arrays):
                return {role: normalize(layer(arrays[self.names[role]]), dim=1) for role, layer in self.project.items()}

        return Head()

    def loss(self, output, batch):
        import torch
        from torch.nn.functional import cross_entropy

        alike = 10 * output["caption"] @ output["picture"].T
        rows = torch.arange(len(alike))
        return (cross_entropy(alike, rows) + cross_entropy(alike.T, rows)) / 2

    def decode(self, output, batch, state):
        return [Prediction(float(cosine)) for cosine in np.sum(output["caption"] * output["picture"], axis=1)]


plugin = Towers

"""Boxes: a number of them that differs by row, each with its owner; two answers are compared by how far boxes overlap."""

import numpy as np

from mainstem.contracts import GraphSpec, Port, Prediction, Task

MOST = 2


class Boxes(Task):
    target, tolerance = "probe_rectangles", 0.01

    def head(self, features, target):
        from torch.nn import Linear, Module

        class Head(Module):
            def __init__(self):
                super().__init__()
                self.name, feature = next(iter(features.items()))
                self.layer = Linear(feature.width, MOST * 5)

            def all(self, arrays):
                slots = self.layer(arrays[self.name]).reshape(-1, MOST, 5)
                return {"box": slots[:, :, :4], "logit": slots[:, :, 4]}

            def forward(self, arrays):
                found = self.all(arrays)
                owner, slot = (found["logit"] > 0).nonzero().T
                return {"box": found["box"][owner, slot], "owner": owner}

        return Head()

    def forward(self, networks, batch):
        return super().forward({**networks, "head": networks["head"].all}, batch)

    def loss(self, output, batch):
        from torch.nn.functional import binary_cross_entropy_with_logits

        there, apart = batch.target["mask"], (output["box"] - batch.target["boxes"]).abs().sum(2)
        return (apart * there).mean() + binary_cross_entropy_with_logits(output["logit"], there)

    def graphs(self, networks, specs, state):
        [(name, spec)] = specs.items()
        inputs = tuple(Port(f"{name.removeprefix('backbone.')}.{p.name}", p.dtype, p.axes) for p in spec.outputs)
        outputs = (Port("box", "float32", ("own", "4")), Port("owner", "int64", ("own",)))
        return {**specs, "head": GraphSpec(inputs, outputs, networks["head"])}

    def decode(self, output, batch, state):
        return [Prediction(output["box"][output["owner"] == i].tolist()) for i in range(batch.examples)]

    def differ(self, a, b):
        x, y = (np.array(each.value).reshape(-1, 4) for each in (a, b))  # left, top, right, bottom
        if len(x) != len(y):
            return 1.0
        low, high = np.maximum(x[:, :2], y[:, :2]), np.minimum(x[:, 2:], y[:, 2:])
        common, (first, second) = (high - low).prod(1), ((z[:, 2:] - z[:, :2]).prod(1) for z in (x, y))
        return float(1 - (common / (first + second - common)).min(initial=1.0))


plugin = Boxes

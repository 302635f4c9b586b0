"""A GAN: two optimisers, no target. It makes rows like those it saw; the row of a request only seeds the noise."""

import numpy as np

from mainstem.contracts import Call, GraphSpec, Params, Port, Prediction, Task

NOISE = 4


class Gan(Task):
    backbones, processors = {"table": ""}, {"table": {"scaling": "none"}}
    tolerance = 1e-3

    def networks(self, features, target, settings):
        from torch.nn import Linear, Module, ReLU, Sequential

        class Net(Module):
            def __init__(self, source, result, width, outputs):
                super().__init__()
                self.source, self.result = source, result
                self.layers = Sequential(Linear(width, 32), ReLU(), Linear(32, outputs))

            def forward(self, arrays):
                return {self.result: self.layers(arrays[self.source])}

        width = features["table.numbers"].width
        return {"generator": Net("noise", "sample", NOISE, width), "critic": Net("sample", "real", width, 1)}

    def parameters(self, networks):
        return {name: Params(list(network.named_parameters())) for name, network in networks.items()}

    def step(self, networks, batch, optimisers, rng):
        import torch
        from torch.nn.functional import softplus

        real = batch.inputs["table"]["numbers"]
        noise = torch.from_numpy(rng.normal(size=(len(real), NOISE)).astype(np.float32))

        def judged(rows):
            return networks["critic"]({"sample": rows})["real"]

        def made():
            return networks["generator"]({"noise": noise})["sample"]

        critic = optimisers["critic"].step(lambda: (softplus(-judged(real)) + softplus(judged(made().detach()))).mean())
        return {"loss": optimisers["generator"].step(lambda: softplus(-judged(made())).mean()), "critic": critic}

    def graphs(self, networks, specs, state):
        width = str(networks["generator"].layers[-1].out_features)
        noise, sample = Port("noise", "float32", ("row", str(NOISE))), Port("sample", "float32", ("row", width))
        return {"generator": GraphSpec((noise,), (sample,), networks["generator"])}

    def predict(self, batch, state, options, rngs):
        noise = np.array([rng.normal(size=NOISE) for rng in rngs], np.float32).reshape(-1, NOISE)
        answer = yield Call("generator", {"noise": noise})
        return [Prediction(row) for row in answer["sample"].tolist()]


plugin = Gan

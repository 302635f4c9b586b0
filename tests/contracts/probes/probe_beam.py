"""Translation in small: an encoder, and a decoder that keeps what it has written and is searched with beams."""

import numpy as np

from mainstem.contracts import Call, GraphSpec, Port, Prediction, Task
from mainstem.modalities.text import plugin as text

VOCABULARY, WIDTH, START, END = 260, 32, 1, 2  # bytes, and [PAD] [CLS] [SEP] [MASK]
TOKENS = {"form": "tokens", "train": {"vocab_size": VOCABULARY}, "max_length": 64}


class Translation(Task):
    inputs, target, options = {"source": "text"}, "text", {"beams": 3, "longest": 16}
    backbones, processors = {"source": ""}, {"source": TOKENS, "target": TOKENS}

    def networks(self, features, target, settings):
        from probe_beam_networks import Decoder, Encoder

        return {"encoder": Encoder(VOCABULARY, WIDTH), "decoder": Decoder(VOCABULARY, WIDTH)}

    def forward(self, networks, batch):
        memory, tokens = networks["encoder"](batch.direct()), batch.target["ids"]
        return {"logits": networks["decoder"].read(tokens[:, :-1], memory)}

    def loss(self, output, batch):
        from torch.nn.functional import cross_entropy

        wanted = batch.target["ids"].where(batch.target["mask"] > 0, -100)[:, 1:]
        return cross_entropy(output["logits"].flatten(0, 1), wanted.flatten())

    def graphs(self, networks, specs, state):
        def cache(name, axis, **more):
            axes = ("row", f"pad:{axis}")
            return Port(name, "float32", (*axes, str(WIDTH)), **more), Port(f"{name}.mask", "float32", axes, **more)

        source = [Port(f"source.{name}", "int64", ("row", "pad:source")) for name in ("ids", "mask")]
        step = (Port("token", "int64", ("row",)), Port("beam", "int64", ("row>row",)))
        taken = (*step, *cache("memory", "source"), *cache("past", "past", optional=True))
        given = (Port("logits", "float32", ("row", str(VOCABULARY))), *cache("past", "grown"))
        encoder = GraphSpec(tuple(source), cache("memory", "source"), networks["encoder"])
        return {"encoder": encoder, "decoder": GraphSpec(taken, given, networks["decoder"])}

    def predict(self, batch, state, options, rngs):
        n, k = batch.examples, options["beams"]
        memory = (yield Call("encoder", batch.direct(), keep=("memory",)))["memory"].take(np.repeat(np.arange(n), k))
        scores, written, beam, past = np.where(np.arange(n * k) % k, -np.inf, 0.0), np.full((n * k, 1), START), np.arange(n * k), {}
        while written.shape[1] < options["longest"] and not (written[:, -1] == END).all():
            answer = yield Call("decoder", {"token": written[:, -1], "beam": beam, "memory": memory, **past}, keep=("past",))
            past, logits = {"past": answer["past"]}, answer["logits"].astype(np.float64)
            added = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
            added[written[:, -1] == END] = np.where(np.arange(VOCABULARY) == END, 0.0, -np.inf)
            total = (scores[:, None] + added).reshape(n, -1)
            best = np.argsort(-total, axis=1, kind="stable")[:, :k]
            beam = (best // VOCABULARY + np.arange(n)[:, None] * k).ravel()
            scores, written = np.take_along_axis(total, best, 1).ravel(), np.column_stack([written[beam], (best % VOCABULARY).ravel()])
        return [Prediction(value) for value in text.decode({"ids": written[::k], "mask": written[::k]}, {}, TOKENS, state)]


plugin = Translation

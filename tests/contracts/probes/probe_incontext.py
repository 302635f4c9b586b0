"""An in-context table: no gradients. The training rows are stored, and handed to the graph as shared inputs with every call."""

import numpy as np

from mainstem.contracts import Call, GraphSpec, Port, Prediction, State, Task


class InContext(Task):
    target, metrics, compared_by = "category", ("accuracy",), ("accuracy", 1)
    backbones, tolerance = {"table": ""}, 1e-3

    def networks(self, features, target, settings):
        from torch.nn import Module

        class Attention(Module):
            def forward(self, arrays):
                near = (arrays["table.numbers"].nan_to_num()[:, None] - arrays["context"][None]).square().sum(2)
                return {"shares": (-8 * near).softmax(1) @ arrays["answers"]}

        return {"head": Attention()}

    def fit_state(self, batches, target, runner):
        rows, labels = [], target.json["labels"]
        for batch in batches:
            rows.append((np.nan_to_num(batch.inputs["table"]["numbers"]), np.eye(len(labels))[batch.target["index"]]))
        context, answers = (np.concatenate(part).astype(np.float32) for part in zip(*rows, strict=True))
        return State({"labels": labels}, {"context": context, "answers": answers})

    def graphs(self, networks, specs, state):
        width, labels = (str(state.arrays[name].shape[1]) for name in ("context", "answers"))
        inputs = (
            Port("table.numbers", "float32", ("row", width)),
            Port("context", "float32", ("shared", width)),
            Port("answers", "float32", ("shared", labels)),
        )
        return {"head": GraphSpec(inputs, (Port("shares", "float32", ("row", labels)),), networks["head"])}

    def predict(self, batch, state, options, rngs):
        output = yield Call("head", {**batch.direct(), **state.arrays})
        return self.decode(output, batch, state)

    def decode(self, output, batch, state):
        labels, rows = state.json["labels"], output["shares"].tolist()
        named = [dict(zip(labels, row, strict=True)) for row in rows]
        return [Prediction(max(scores, key=scores.get), max(scores.values()), scores) for scores in named]


plugin = InContext

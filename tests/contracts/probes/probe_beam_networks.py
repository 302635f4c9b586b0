"""The two networks of `probe_beam`. A place is counted by the mask, so that padding from merged calls changes nothing."""

import torch
from torch import nn


def attend(query_BD, keys_BTD, mask_BT):
    scores_BT = (keys_BTD @ query_BD[:, :, None])[:, :, 0] / query_BD.shape[1] ** 0.5 + (mask_BT - 1) * 1e9
    return (scores_BT.softmax(1)[:, None] @ keys_BTD)[:, 0]


class Encoder(nn.Module):
    def __init__(self, vocabulary, width):
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        for table in (self.token, self.place):
            nn.init.normal_(table.weight, std=0.3)  # attention starts soft: from one that is sharp by chance it may not recover

    def forward(self, arrays):
        ids, mask = arrays["source.ids"], arrays["source.mask"]
        return {"memory": self.token(ids) + self.place((mask.cumsum(1) - 1).clamp(min=0)), "memory.mask": mask.float()}


class Decoder(Encoder):
    def __init__(self, vocabulary, width):
        super().__init__(vocabulary, width)
        self.own, self.other, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(3 * width, vocabulary)

    def forward(self, arrays):
        past, seen = arrays["past"][arrays["beam"]], arrays["past.mask"][arrays["beam"]]
        now = self.token(arrays["token"]) + self.place(seen.sum(1).long())
        past, seen = torch.cat([past, now[:, None]], 1), torch.cat([seen, torch.ones_like(now[:, :1])], 1)
        read = attend(self.other(now), arrays["memory"], arrays["memory.mask"])
        logits = self.out(torch.cat([now, attend(self.own(now), past, seen), read], 1))
        return {"logits": logits, "past": past, "past.mask": seen}

    def read(self, tokens_BT, memory):
        """Logits [B, T, vocabulary] where the answer is known: one step after the other, as `predict` goes."""
        rows, logits = torch.arange(len(tokens_BT)), []
        past = {"past": torch.zeros(len(rows), 0, self.token.embedding_dim), "past.mask": torch.zeros(len(rows), 0)}
        for token in tokens_BT.T:
            answer = self({"token": token, "beam": rows, **memory, **past})
            past = {"past": answer["past"], "past.mask": answer["past.mask"]}
            logits.append(answer["logits"])
        return torch.stack(logits, 1)

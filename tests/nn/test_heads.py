import pytest
import torch
from torch import nn

from mainstem.contracts import Feature
from mainstem.errors import MainstemError
from mainstem.nn.heads import Head
from mainstem.tasks._settings import HEAD

FEATURES = {"text.mean": Feature(3), "image.pooled": Feature(2), "text.sequence": Feature(3, ("row", "pad:length"))}


def arrays(rows=5):
    g = torch.Generator().manual_seed(1)
    return {
        "text.mean": torch.randn(rows, 3, generator=g),
        "image.pooled": torch.randn(rows, 2, generator=g),
        "text.sequence": torch.randn(rows, 4, 3, generator=g),
    }


def test_vectors_are_joined_in_the_order_of_their_names():
    head, x = Head(FEATURES, "logits", 4, HEAD).eval(), arrays()
    joined = torch.cat([x["image.pooled"], x["text.mean"]], 1)
    linear = next(m for m in head.modules() if isinstance(m, nn.Linear))
    out = head(dict(reversed(x.items())))
    assert out["logits"].shape == (5, 4)
    assert out["logits"].dtype == torch.float32
    torch.testing.assert_close(out["logits"], linear(joined))


def test_settings_shape_the_network():
    settings = {**HEAD, "hidden": [8, 6], "activation": "gelu", "norm": "layer", "dropout": 0.25, "init": "xavier_uniform"}
    head = Head(FEATURES, "value", 1, settings)
    kinds = [type(m) for m in head.layers]
    layer = [nn.Dropout, nn.Linear, nn.LayerNorm, nn.GELU]
    assert kinds == [*layer, *layer, nn.Dropout, nn.Linear]
    assert [m.out_features for m in head.layers if isinstance(m, nn.Linear)] == [8, 6, 1]
    assert {m.p for m in head.layers if isinstance(m, nn.Dropout)} == {0.25}
    assert all((m.bias == 0).all() for m in head.layers if isinstance(m, nn.Linear))


def test_init_zeros_gives_zeros():
    head = Head(FEATURES, "value", 1, {**HEAD, "init": "zeros"})
    assert (head(arrays())["value"] == 0).all()


def test_batch_norm_takes_a_batch_of_one():
    head = Head(FEATURES, "value", 1, {**HEAD, "hidden": [4], "norm": "batch"}).train()
    assert head(arrays(1))["value"].isfinite().all()


def test_standardize_gives_the_features_of_an_input_one_scale_and_leaves_the_others():
    head, x = Head(FEATURES, "value", 1, {**HEAD, "standardize": ["text"]}).train(), arrays(100)
    x["text.mean"] = x["text.mean"] * 1000 + 5000
    joined = []
    head.layers.register_forward_pre_hook(lambda module, inputs: joined.append(inputs[0]))
    head(x)
    picture, text = joined[0][:, :2], joined[0][:, 2:]
    torch.testing.assert_close(picture, x["image.pooled"])
    torch.testing.assert_close(text.mean(0), torch.zeros(text.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(text.var(0), torch.ones(text.shape[1]), atol=0.02, rtol=0)
    mean = head.norms[0].running_mean.clone()
    torch.testing.assert_close(mean, x["text.mean"].mean(0))
    head.eval()({name: value + 1 for name, value in x.items()})
    torch.testing.assert_close(head.norms[0].running_mean, mean)
    assert head.train()(arrays(1))["value"].isfinite().all()


def test_no_vector_is_an_error():
    with pytest.raises(MainstemError, match=r"text\.sequence"):
        Head({"text.sequence": FEATURES["text.sequence"]}, "value", 1, HEAD)

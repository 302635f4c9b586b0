import pytest
import torch
from torch.nn import functional

from mainstem.errors import MainstemError
from mainstem.nn import losses


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=g), torch.randint(0, 4, (7,), generator=g), torch.rand(7, generator=g)


def test_cross_entropy_is_torchs(batch):
    logits, index, weights = batch
    assert losses.cross_entropy(logits, index).item() == pytest.approx(functional.cross_entropy(logits, index).item())
    smooth = functional.cross_entropy(logits, index, label_smoothing=0.1, reduction="none")
    assert losses.cross_entropy(logits, index, weights, 0.1).item() == pytest.approx((smooth * weights).mean().item())


def test_an_unknown_label_costs_nothing(batch):
    logits, index, _ = batch
    index = index.clone()
    index[0] = -1
    expected = functional.cross_entropy(logits[1:], index[1:], reduction="sum") / 7
    assert losses.cross_entropy(logits, index).item() == pytest.approx(expected.item())


def test_binary_cross_entropy_is_torchs(batch):
    logits, _, weights = batch
    hot = (logits.roll(1, 0) > 0).float()
    expected = functional.binary_cross_entropy_with_logits(logits, hot)
    assert losses.binary_cross_entropy(logits, hot).item() == pytest.approx(expected.item())
    softened = functional.binary_cross_entropy_with_logits(logits, hot * 0.8 + 0.1, reduction="none").mean(1)
    assert losses.binary_cross_entropy(logits, hot, weights, 0.2).item() == pytest.approx((softened * weights).mean().item())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", lambda a, b: functional.mse_loss(a, b, reduction="none") / 2),
        ("mae", lambda a, b: functional.l1_loss(a, b, reduction="none")),
        ("huber", lambda a, b: functional.huber_loss(a, b, reduction="none", delta=0.5)),
    ],
)
def test_regression_losses_are_torchs(batch, name, expected):
    logits, _, weights = batch
    value, target = logits[:, :1], logits[:, 1]
    each = expected(value[:, 0], target)
    assert losses.regression(name, value, target, delta=0.5).item() == pytest.approx(each.mean().item())
    assert losses.regression(name, value, target, weights, 0.5).item() == pytest.approx((each * weights).mean().item())


def test_the_gradient_of_mse_is_the_residual():
    value = torch.tensor([3.0], requires_grad=True)
    losses.regression("mse", value, torch.tensor([1.0])).backward()
    assert value.grad.item() == 2.0


def test_unknown_loss_names_the_nearest():
    with pytest.raises(MainstemError, match="'huber'"):
        losses.regression("hubert", torch.zeros(1), torch.zeros(1))

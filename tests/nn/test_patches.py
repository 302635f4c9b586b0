"""The in-context series network: what an answer depends on, and in what order quantiles lie."""

import pytest
import torch

from mainstem.nn import patches

SIZES = {"patch": 4, "channels": 3, "candidates": 5, "bounds": (3, 4), "summary": 9, "past": 6, "ahead": 2}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = patches.Patches(24, 2, 2, **SIZES).eval()
    for linear in (made.weights, made.correction, made.steps, made.reach):
        torch.nn.init.normal_(linear.weight, std=0.3)
    return made


def window(n=3, past=4, ahead=2, seed=0):
    made = torch.Generator().manual_seed(seed)
    context = torch.randn(n, past, 4, 3, generator=made)
    context[..., 1] = 1.0
    return {
        "context": context.flatten(2),
        "future": torch.randn(n, 5, 4 * ahead, generator=made),
        "level": torch.randn(n, 4 * ahead, generator=made),
        "width": torch.rand(n, 4 * ahead, generator=made) + 0.5,
        "summary": torch.randn(n, 9, generator=made),
    }


@torch.inference_mode()
def test_quantiles_do_not_cross(net):
    told = net(**window(n=50, ahead=3))["quantiles"]
    assert told.shape == (50, 12, len(patches.QUANTILES))
    assert (told.diff(dim=-1) > 0).all()


@torch.inference_mode()
def test_an_answer_depends_on_its_own_series(net):
    whole = window()
    lone = {name: array[1:2] for name, array in whole.items()}
    torch.testing.assert_close(net(**lone)["quantiles"][0], net(**whole)["quantiles"][1])


@torch.inference_mode()
def test_patches_before_a_series_begins_say_nothing(net):
    plain, padded = window(), window()
    padded["context"] = torch.cat([torch.zeros(3, 2, 12), plain["context"]], dim=1)
    torch.testing.assert_close(net(**padded)["quantiles"], net(**plain)["quantiles"])


@torch.inference_mode()
def test_where_candidates_agree_and_nothing_is_corrected_the_median_is_what_they_say(net):
    made = patches.Patches(24, 2, 2, **SIZES).eval()
    arrays = window()
    torch.nn.init.zeros_(made.weights.weight)
    torch.nn.init.zeros_(made.correction.weight)
    torch.nn.init.constant_(made.weights.bias[-1:], -100.0)  # not the base
    arrays["future"] = arrays["future"][:, :1].expand(-1, 5, -1).contiguous()
    middle = made(**arrays)["quantiles"][..., len(patches.QUANTILES) // 2]
    torch.testing.assert_close(middle, arrays["future"][:, 0], atol=1e-4, rtol=0)


def test_the_loss_is_least_at_the_quantiles():
    truth = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    right = torch.quantile(truth, torch.tensor(patches.QUANTILES)).expand(4000, 1, -1)
    least = patches.pinball(right, truth).mean()
    for wrong in (right + 0.3, right - 0.3, right * 0.5, right * 2.0):
        assert patches.pinball(wrong, truth).mean() > least + 0.01

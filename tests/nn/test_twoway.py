"""The in-context table network: what an answer may depend on, and what not."""

import pytest
import torch

from mainstem.nn import twoway


def batch(asked=2, known=5, columns=4, seed=0):
    made = torch.Generator().manual_seed(seed)
    return {
        "cells": torch.randn(2, asked, columns, 3, generator=made),
        "codes": torch.randint(0, 32, (2, asked, columns), generator=made),
        "known_cells": torch.randn(2, known, columns, 3, generator=made),
        "known_codes": torch.randint(0, 32, (2, known, columns), generator=made),
        "index": torch.randint(0, 3, (2, known), generator=made),
        "value": torch.randn(2, known, 2, generator=made),
        "marks": torch.randn(2, columns // 2, 16, generator=made),
        "regression": torch.tensor([0.0, 1.0]),
    }


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return twoway.TwoWay(width=32, layers=3, heads=2, codes=32, mark=16).eval()


@torch.inference_mode()
def test_an_answer_depends_on_its_row_and_the_context_alone(net):
    whole, lone = batch(), batch()
    for name in ("cells", "codes"):
        lone[name] = whole[name][:, 1:]
    for name, answer in net(**whole).items():
        torch.testing.assert_close(net(**lone)[name][:, 0], answer[:, 1])
    other = batch()
    other["known_cells"][:, 0] += 1.0
    assert not torch.allclose(net(**other)["logits"], net(**whole)["logits"])


@torch.inference_mode()
def test_the_order_of_context_rows_says_nothing(net):
    plain, turned = batch(), batch()
    for name in ("known_cells", "known_codes", "index", "value"):
        turned[name] = plain[name][:, [3, 0, 4, 1, 2]]
    for name, answer in net(**plain).items():
        torch.testing.assert_close(net(**turned)[name], answer)


@torch.inference_mode()
def test_classes_are_read_for_classification_and_values_for_regression(net):
    plain, changed = batch(), batch()
    changed["index"] = (changed["index"] + 1) % 3
    a, b = net(**plain), net(**changed)
    assert not torch.allclose(a["logits"][0], b["logits"][0])
    torch.testing.assert_close(a["nodes"][1], b["nodes"][1])


def test_mass_on_two_nodes_has_the_value_as_its_mean():
    at = twoway.nodes()
    values = torch.tensor([-5.9, -0.31, 0.0, 0.02, 4.4])
    mass = twoway.spread(values, at)
    torch.testing.assert_close(mass @ at, values, atol=1e-5, rtol=0)
    torch.testing.assert_close(mass.sum(-1), torch.ones(5))
    assert (twoway.spread(torch.tensor([-60.0, 60.0]), at) @ at).tolist() == pytest.approx([-6.0, 6.0])


@torch.inference_mode()
def test_in_bfloat16_the_answers_are_near(net):
    exact = net(**batch())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(**batch())
    for name, answer in exact.items():
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], answer, rtol=0.05, atol=0.05 * float(answer.abs().max()))

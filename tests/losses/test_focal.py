"""Focal losses against their formula and cross-entropy."""

import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F

from minimand.losses import focal_loss, sigmoid_focal_loss


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return 3 * torch.randn(30, 5, dtype=torch.float64, generator=generator), torch.arange(30) % 5


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_softmax_form_is_its_formula(gamma):
    logits, target = sample()
    p = scipy.special.softmax(logits.numpy(), axis=1)[np.arange(30), target.numpy()]
    loss = focal_loss(logits, target, gamma=gamma, reduction="none")
    np.testing.assert_allclose(loss.numpy(), -((1 - p) ** gamma) * np.log(p), rtol=1e-10)


def test_without_focus_it_is_cross_entropy():
    logits, target = sample()
    torch.testing.assert_close(focal_loss(logits, target, gamma=0.0), F.cross_entropy(logits, target))


def test_class_weights_are_those_of_cross_entropy_summed():
    logits, target = sample()
    weights = torch.tensor([0.1, 1.0, 2.0, 0.0, 0.7], dtype=torch.float64)
    torch.testing.assert_close(
        focal_loss(logits, target, gamma=0.0, alpha=weights, reduction="sum"),
        F.cross_entropy(logits, target, weight=weights, reduction="sum"),
    )


def test_the_papers_example_is_a_hundred_times_below_cross_entropy():
    # Lin et al., section 3.2: with gamma = 2 a sample at p = 0.9 has 100 times less loss.
    logits = torch.tensor([[math.log(9.0), 0.0]], dtype=torch.float64)
    ratio = F.cross_entropy(logits, torch.tensor([0])) / focal_loss(logits, torch.tensor([0]), gamma=2.0)
    assert ratio.item() == pytest.approx(100, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.25, 0.8])
def test_sigmoid_form_is_its_formula(alpha):
    logits, label = sample()[0].flatten(), torch.arange(150) % 2
    p = 1 / (1 + np.exp(-logits.numpy()))
    y = label.numpy()
    p_t, alpha_t = np.where(y == 1, p, 1 - p), np.where(y == 1, alpha, 1 - alpha)
    loss = sigmoid_focal_loss(logits, label, gamma=1.5, alpha=alpha, reduction="none")
    np.testing.assert_allclose(loss.numpy(), -alpha_t * (1 - p_t) ** 1.5 * np.log(p_t), rtol=1e-10)


def test_sigmoid_form_without_focus_is_binary_cross_entropy():
    logits, label = sample()[0], torch.rand(30, 5, generator=torch.Generator().manual_seed(4)).round().double()
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, label, gamma=0.0, alpha=None), F.binary_cross_entropy_with_logits(logits, label)
    )


def test_two_classes_agree_between_the_forms():
    logits, label = sample()[0].flatten(), torch.arange(150) % 2
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(
        focal_loss(pairs, label, gamma=2.0), sigmoid_focal_loss(logits, label, gamma=2.0, alpha=None)
    )


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_a_certain_sample_has_a_finite_gradient_below_gamma_one(gamma):
    # (1 - p)^gamma has an infinite slope at p = 1 for 0 < gamma < 1; the product with ln p has not.
    logits = torch.tensor([[1e4, 0.0], [200.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 0]), gamma=gamma).backward()
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": -1.0}, ValueError, r"gamma must lie in \[0, inf\); got -1"),
        ({"gamma": "2"}, TypeError, r"gamma must be a number in \[0, inf\); got str"),
        ({"gamma": torch.ones(2)}, ValueError, r"gamma must be a number or a 0-d tensor; got shape \(2,\)"),
        ({"alpha": torch.ones(4)}, ValueError, r"alpha must have shape \(5,\), one weight a class; got \(4,\)"),
        ({"alpha": -torch.ones(5)}, ValueError, "alpha must lie in .*; got -1 at flat position 0"),
        ({"alpha": 0.25}, TypeError, "alpha must be a floating-point tensor; got float"),
    ],
)
def test_what_does_not_fit_is_named(options, error, message):
    logits, target = sample()
    with pytest.raises(error, match=message):
        focal_loss(logits, target, **options)


def test_an_alpha_above_one_is_named():
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]; got 2"):
        sigmoid_focal_loss(torch.zeros(2), torch.tensor([0, 1]), alpha=2.0)

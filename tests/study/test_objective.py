"""How losses meet models. Oracles: PyTorch's own losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from minimand.losses import metric_loss
from minimand.study.choices import find
from minimand.study.objective import BinaryLoss, huber
from tests.study.examples import blobs, curve


def fitted(name: str, task):
    return find("loss", name).value.fit(task)


def test_a_class_loss_wants_an_output_a_class_and_predicts_by_softmax():
    found = fitted("cross_entropy", blobs(classes=3))
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert found.outputs == 3
    torch.testing.assert_close(found.loss(logits, target, {}), F.cross_entropy(logits, target))
    torch.testing.assert_close(found.predict(logits).sum(1), torch.ones(6))
    assert torch.equal(found.predict(logits).argmax(1), logits.argmax(1))


def test_a_binary_loss_sees_the_difference_of_two_logits():
    found = BinaryLoss(F.binary_cross_entropy_with_logits).fit(blobs(classes=2))
    logits, target = torch.randn(8, 2), torch.tensor([0.0, 1.0] * 4)
    # cross-entropy of two logits is binary cross-entropy of their difference
    expected = F.cross_entropy(logits, target.long())
    torch.testing.assert_close(found.loss(logits, target, {}), expected)
    assert found.outputs == 2


def test_a_metric_loss_falls_when_the_right_class_gains():
    found = BinaryLoss(metric_loss, {"metric": "f1"}).fit(blobs(classes=2))
    target = torch.tensor([0, 1, 1])
    right = F.one_hot(target, 2).float()
    hyper = {"amplification": torch.tensor(10.0)}
    assert found.loss(right, target, hyper) < found.loss(-right, target, hyper)


@pytest.mark.parametrize("name", ["f1", "g_mean", "balanced_accuracy", "accuracy", "mcc", "f_beta"])
def test_metric_losses_are_for_two_classes(name):
    with pytest.raises(ValueError, match="is for two classes; this task has 3"):
        fitted(name, blobs(classes=3))


@pytest.mark.parametrize(("name", "oracle"), [("mse", F.mse_loss), ("l1", F.l1_loss)])
def test_real_losses_are_pytorchs(name, oracle):
    found = fitted(name, curve())
    outputs, target = torch.randn(5, 1), torch.randn(5)
    torch.testing.assert_close(found.loss(outputs, target, {}), oracle(outputs[:, 0], target))
    assert torch.equal(found.predict(outputs), outputs[:, 0])


@pytest.mark.parametrize("delta", [0.1, 1.0, 3.0])
def test_huber_is_pytorchs_in_value_and_gradient(delta):
    prediction, target = torch.randn(50, dtype=torch.float64, requires_grad=True), 2 * torch.randn(50).double()
    ours = huber(prediction, target, torch.tensor(delta, dtype=torch.float64))
    theirs = F.huber_loss(prediction, target, delta=delta)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, prediction)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("name", ["hl_gauss", "two_hot"])
def test_a_histogram_reaches_past_the_training_targets_and_no_further(name):
    task = curve()
    found = fitted(name, task)
    low, high = task.train.target.aminmax()
    first, last = torch.full((1, found.outputs), -1e4), torch.full((1, found.outputs), -1e4)
    first[0, 0], last[0, -1] = 1e4, 1e4
    width = high - low
    assert low - 0.1 * width <= found.predict(first)[0] < low
    assert high < found.predict(last)[0] <= high + 0.1 * width


@pytest.mark.parametrize("name", ["hl_gauss", "two_hot"])
def test_a_histogram_loss_is_least_where_the_prediction_is_the_target(name):
    task = curve()
    found = fitted(name, task)
    hyper = {key: torch.tensor(spec.default) for key, spec in find("loss", name).hypers.items()}
    target = task.train.target[:4]
    logits = torch.zeros(4, found.outputs, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        found.loss(logits, target, hyper).backward()
        optimizer.step()
    torch.testing.assert_close(found.predict(logits.detach()), target, atol=0.03, rtol=0.0)


@pytest.mark.parametrize(
    ("name", "task"), [("mse", blobs()), ("hl_gauss", blobs()), ("cross_entropy", curve()), ("f1", curve())]
)
def test_losses_refuse_tasks_of_the_other_kind(name, task):
    with pytest.raises(ValueError, match=r"is for (\w+); this task is (?!\1)"):
        fitted(name, task)

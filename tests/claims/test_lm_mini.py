"""The small language model on which four rules are tried: its data, its trainings and what is read off them."""

import math

import pytest
import torch

from minimand.claims import _lm_mini as lm
from minimand.hyper import as_hyper
from minimand.optim import rules


def test_windows_hold_character_codes_and_none_of_the_held_out_ones_is_trained_on():
    train, held_out = lm.windows()
    assert train.shape[1] == held_out.shape[1] == lm.CONTEXT + 1
    assert held_out.shape[0] == 8 * lm.PART
    assert int(train.min()) >= 0
    assert int(train.max()) < lm.VOCABULARY
    text = [min(ord(letter), 127) for letter in lm.library_text()[: lm.CHARACTERS]]
    end = len(text) * 9 // 10
    assert train[-1].tolist() == text[len(train[:-1]) * lm.APART :][: lm.CONTEXT + 1]
    assert (len(train) - 1) * lm.APART + lm.CONTEXT < end
    assert held_out[0].tolist() == text[end : end + lm.CONTEXT + 1]


def test_the_model_starts_as_ignorant_as_one_can_be_and_sees_no_future():
    params, (train, _) = lm.initial(0), lm.windows()
    assert lm.loss_of(params, (train[:16],)).item() == pytest.approx(math.log(lm.VOCABULARY), abs=0.1)
    changed = train[:1, :-1].clone()
    changed[0, 20] = (changed[0, 20] + 1) % lm.VOCABULARY
    difference = (lm.logits(params, changed) - lm.logits(params, train[:1, :-1])).abs().sum(-1)[0]
    assert not difference[:20].any()
    assert difference[20:].all()


def test_a_rule_that_acts_by_element_is_kept_to_matrices():
    rule = lm.OnMatrices(inner=rules.SignSGD())
    assert rule.accepts(torch.zeros(2, 3))
    assert not rule.accepts(torch.zeros(6))
    assert set(rule.hypers) == {*rules.SignSGD.hypers, *("fallback_" + name for name in rules.AdamW.hypers)}
    hyper = {name: as_hyper(value) for name, value in rule.defaults().items()}
    step, _ = rule.update(torch.ones(2, 3), rule.init(torch.ones(2, 3)), torch.ones(2, 3), hyper)
    torch.testing.assert_close(step, torch.full((2, 3), -1e-3))


def test_what_is_read_off_a_training_is_exact():
    loss = torch.tensor([[1.0, 3.0], [2.0, 1.0], [math.nan, 0.0]])  # means 2, 1.5 and none
    curve = torch.tensor([[[9.0, 9.0, 9.0]] * 2, [[3.0, 2.0, 1.0], [3.0, 3.0, 3.0]], [[0.0] * 3] * 2])
    found = lm.Trained(lm.Method(rules.SGD(), rate=0.3), loss, curve, (10, 20, 30), torch.zeros(3, 2))
    assert found.best == 1
    assert found.losses == [2.0, 1.0]
    assert found.steps_to(torch.tensor([2.0, 2.0])).tolist() == [20.0, math.inf]
    assert found.row[:2] == (pytest.approx(0.3), pytest.approx(1.5))
    steps = {"a": torch.tensor([[[3.0, 4.0], [0.0, 15.0]]]), "b": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])}
    assert lm._row_variation(steps).item() == pytest.approx(0.25)  # norms 5 and 15: half of 5 / 10, and 0


def test_every_trial_observes_its_own_curvature_where_its_parameters_lie(monkeypatch):
    estimate = {name: torch.full_like(value, i) for i, (name, value) in enumerate(lm.initial(0).items())}
    monkeypatch.setattr(lm, "gauss_newton_bartlett_diagonal", lambda *_, **__: estimate)
    params = {name: torch.stack([value] * 2) for name, value in lm.initial(0).items()}
    trainer = lm.BatchedTrainer(lm.loss_of, rules.Sophia())
    state = trainer.init(params, {"beta2": torch.tensor([0.0, 0.5])})
    observed = lm._observed(rules.Sophia(), params, state, lm.windows()[0], torch.zeros(2, 4, dtype=torch.int64), 0)
    wanted = torch.cat([value.flatten() for value in estimate.values()])
    (own,) = observed.rule.values()
    torch.testing.assert_close(own["curvature"], torch.stack([wanted, 0.5 * wanted]))

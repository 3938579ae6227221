"""The pieces of the loss papers' experiments: the verdicts are for the recorded runs."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.metrics import balanced_accuracy_score, f1_score

from minimand.claims import anyloss, comp_sum, hl_gauss, ldr
from minimand.losses import comp_sum_bound
from minimand.study import read_task

# comp-sum


@pytest.mark.parametrize("tau", comp_sum.TAUS)
def test_no_scores_found_by_search_have_a_smaller_comp_sum_risk_than_the_closed_form(tau):
    probs = np.array([0.5, 0.3, 0.2])

    def risk(scores):
        sums = np.array([sum(np.exp(scores[k] - scores[y]) for k in range(3) if k != y) for y in range(3)])
        return float(probs @ (np.log1p(sums) if tau == 1 else ((1 + sums) ** (1 - tau) - 1) / (1 - tau)))

    starts = [np.zeros(3), *np.random.default_rng(0).normal(size=(5, 3)), np.array([15.0, 0.0, 0.0])]
    found = min(minimize(risk, start, method="Nelder-Mead", options={"fatol": 1e-12}).fun for start in starts)
    least = comp_sum.least_risk(torch.tensor(probs)[None], tau).item()
    assert found == pytest.approx(least, abs=1e-5)
    assert found >= least - 1e-9


@pytest.mark.parametrize("tau", comp_sum.TAUS)
def test_the_comp_sum_regret_is_risk_less_least_risk(tau):
    probs, scores = torch.tensor([[0.7, 0.2, 0.1], [0.1, -0.4, 1.3]], dtype=torch.float64).split(1)
    others = [[k for k in range(3) if k != y] for y in range(3)]
    sums = [(scores[0, others[y]] - scores[0, y]).exp().sum() for y in range(3)]
    charged = [u.log1p() if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau) for u in sums]
    expected = probs[0] @ torch.stack(charged) - comp_sum.least_risk(probs, tau)[0]
    assert comp_sum.comp_sum_regret(probs, scores, tau).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_comp_sum_regret_of_the_true_log_probabilities_is_zero_at_tau_1_alone():
    probs = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    assert comp_sum.comp_sum_regret(probs, probs.log(), 1.0).item() == pytest.approx(0.0, abs=1e-12)
    assert comp_sum.comp_sum_regret(probs, probs.log(), 0.5).item() > 0.01


def test_the_zero_one_regret_is_what_the_predicted_class_lacks():
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    scores = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    assert comp_sum.zero_one_regret(probs, scores).tolist() == pytest.approx([0.0, 0.3])


@pytest.mark.parametrize("num_classes", comp_sum.CLASSES)
def test_cases_are_distributions_and_reach_every_zero_one_regret(num_classes):
    probs, scores = comp_sum.cases(2000, num_classes, torch.Generator().manual_seed(0))
    assert probs.shape == scores.shape == (2000, num_classes)
    assert bool((probs >= 0).all())
    assert torch.allclose(probs.sum(1), torch.ones(2000).double())
    regret = comp_sum.zero_one_regret(probs, scores)
    assert len(torch.unique((regret[regret > 0] * comp_sum.BINS).long())) == comp_sum.BINS


def test_a_bound_that_is_too_small_would_be_seen(monkeypatch):
    monkeypatch.setattr(comp_sum, "comp_sum_bound", lambda gap, tau, n: 0.99 * comp_sum_bound(gap, tau, n))
    measured = comp_sum.run("smoke", seed=0)
    assert measured.effects["violation"].value > 1e-3


# anyloss


def test_a_twentieth_of_the_imbalanced_rows_are_positive_but_for_the_flipped_labels():
    inputs, target = anyloss.imbalanced(2, seed=0)
    assert inputs.shape == (2, anyloss.ROWS, anyloss.FEATURES)
    assert not torch.equal(inputs[0], inputs[1])
    assert 0.05 <= float(target.mean()) <= 0.07  # 2% of the labels are drawn anew, half of them as positives


@pytest.mark.parametrize(("name", "oracle"), [("f1", f1_score), ("balanced_accuracy", balanced_accuracy_score)])
def test_scores_are_the_metrics_of_the_split_at_threshold_one_half(name, oracle):
    target = (torch.arange(40) % 4 == 0).float()[None]
    logits = torch.randn(1, 2, 40, generator=torch.Generator().manual_seed(0)) + target[:, None]
    parts = [{"validation": np.arange(0, 20), "test": np.arange(20, 40)}]
    found = anyloss.scored(name, logits, target, parts)
    for split, scores in zip(("validation", "test"), found, strict=True):
        rows = parts[0][split]
        expected = [oracle(target[0, rows].numpy(), (logits[0, r, rows] > 0).numpy()) for r in range(2)]
        assert scores[0].tolist() == pytest.approx(expected)


def test_the_learning_rate_is_chosen_on_validation_rows():
    validation, test = np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    assert anyloss.tuned(validation, test) == [2.0, 3.0]


def test_models_are_trained_on_the_training_rows_of_their_own_data_set():
    inputs, target = anyloss.imbalanced(2, seed=0)
    parts = [{"train": np.arange(500)}, {"train": np.arange(500)}]
    found = anyloss.trained("cross_entropy", inputs, target, parts, steps=30, rates=(0.01, 0.1), seed=0)
    changed = inputs.clone(), target.clone()
    for each in changed:
        each[1] = each[1].flip(0)  # the second data set's training rows are others now
    changed[0][0, 500:] = 0  # rows of the first that are not trained on
    again = anyloss.trained("cross_entropy", *changed, parts, steps=30, rates=(0.01, 0.1), seed=0)
    assert torch.allclose(found[0, :, :500], again[0, :, :500])
    assert not torch.allclose(found[1].flip(-1), again[1], atol=1e-2)


# ldr


def test_60_percent_of_the_training_and_validation_labels_are_wrong_and_no_test_label():
    noisy, clean = (read_task(data, model=ldr.network, seed=3) for data in ldr.DATA.values())
    for split in ("train", "validation"):
        wrong = getattr(noisy, split).target != getattr(clean, split).target
        assert float(wrong.double().mean()) == pytest.approx(0.6, abs=0.5 / len(wrong))
    assert torch.equal(noisy.test.target, clean.test.target)
    assert torch.equal(noisy.train.inputs, clean.train.inputs)


def test_the_small_run_trains_for_30_epochs():
    assert ldr.STEPS["small"] * ldr.BATCH / len(read_task("digits").train) == pytest.approx(30, abs=0.3)


def test_accuracy_is_that_of_each_tasks_own_networks():
    tasks = [read_task("digits", model=ldr.network, seed=seed) for seed in range(2)]
    both = ldr.accuracies(tasks, F.cross_entropy, (0.001, 0.01), steps=60, seed=0)
    first = ldr.accuracies(tasks[:1], F.cross_entropy, (0.001, 0.01), steps=60, seed=0)
    for stacked, alone in zip(both, first, strict=True):
        assert stacked.shape == (2, 2)
        assert stacked[0].tolist() == pytest.approx(alone[0].tolist(), abs=0.01)
    assert both[1].min() > 0.5


def test_the_ldr_losses_have_a_large_temperature():
    logits, target = torch.tensor([[1.0, 2.0, -0.5]]), torch.tensor([0])
    expected = ldr.LARGE * torch.tensor([0.0, 1.1, -1.4]).div(ldr.LARGE).exp().mean().log()
    assert ldr.LOSSES["LDR-KL"](logits, target).item() == pytest.approx(expected.item(), rel=1e-4)
    assert ldr.LOSSES["ALDR-KL"](logits, target).item() == pytest.approx(expected.item(), abs=1e-3)


# hl-gauss


def test_friedmans_function_is_free_of_noise_on_test_rows_and_has_it_elsewhere():
    data = hl_gauss.friedman(2.0, seed=0)
    x = {split: (rows.double() + 1) / 2 for split, rows in data.inputs.items()}
    train, test = (
        10 * (torch.pi * x[s][:, 0] * x[s][:, 1]).sin()
        + 20 * (x[s][:, 2] - 0.5) ** 2
        + 10 * x[s][:, 3]
        + 5 * x[s][:, 4]
        for s in ("train", "test")
    )
    offset = (data.target["test"].double() * data.scale - test).mean()
    assert torch.allclose(data.target["test"].double() * data.scale - offset, test, atol=1e-4)
    residual = data.target["train"].double() * data.scale - offset - train
    assert float(residual.std()) == pytest.approx(2.0, rel=0.1)


def test_regression_targets_are_standardised_by_the_training_rows():
    target = hl_gauss.friedman(0.1, seed=0).target["train"]
    assert float(target.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(target.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def played(column, moves):
    games, rewards = hl_gauss.Catch(torch.tensor(column)), []
    for move in moves:
        reward, over = games.step(torch.tensor(move))
        rewards.append(reward.item())
    return games, rewards, over


@pytest.mark.parametrize("column", range(5))
def test_a_ball_is_caught_by_the_paddle_under_it_and_only_the_last_reward_counts(column):
    towards = [0] * max(0, 2 - column) + [2] * max(0, column - 2)
    stay = [1] * (7 - len(towards))
    assert played(column, towards + stay)[1:] == ([0.0] * 6 + [1.0], True)
    away = [2 if column < 3 else 0] * 7
    assert played(column, away)[1:] == ([0.0] * 6 + [-1.0], True)


def test_the_paddle_stays_on_the_board():
    assert played(0, [0] * 6)[0].paddle.item() == 0
    assert played(0, [2] * 6)[0].paddle.item() == 4
    assert not played(0, [2] * 6)[2]


def test_an_observation_shows_ball_and_paddle_and_tells_all_positions_apart():
    games = played(3, [0, 1])[0]
    board = games.observation().view(8, 5)
    assert [tuple(cell) for cell in board.nonzero().tolist()] == [(2, 3), (7, 1)]
    seen = set()
    for row, column, paddle in product(range(8), range(5), range(5)):
        games.row, games.column, games.paddle = row, torch.tensor(column), torch.tensor(paddle)
        seen.add(tuple(games.observation().tolist()))
    assert len(seen) == 8 * 25 - 5 * 4 // 2  # in the last row ball and paddle look alike: the game is over


class Fixed(hl_gauss.QLearner):
    """Takes the move ``best`` makes of an observation."""

    def values(self, params, observation):
        board = observation.unflatten(-1, hl_gauss.BOARD)
        ball, paddle = board[..., :-1, :].sum(-2).argmax(-1), board[..., -1, :].argmax(-1)
        return F.one_hot(1 + (ball - paddle).sign(), hl_gauss.MOVES).float()


def test_the_policy_that_follows_the_ball_returns_1_and_one_that_does_not_move_minus_0_6():
    params = {"w": torch.zeros(2, 1)}
    assert Fixed(hl_gauss.SQUARED_ERROR).evaluate(params).tolist() == [1.0, 1.0]
    still = Fixed(hl_gauss.SQUARED_ERROR)
    still.values = lambda params, observation: F.one_hot(torch.ones(2, 5, dtype=torch.long), 3).float()
    assert still.evaluate(params).tolist() == pytest.approx([-0.6, -0.6])


def test_rewards_in_play_are_the_games_with_noise_of_deviation_1():
    params = {"w": torch.zeros(200, 1)}
    found = Fixed(hl_gauss.SQUARED_ERROR).play(params, 0.0, torch.Generator().manual_seed(0))
    before, move, reward, after, over = found
    assert before.shape == after.shape == (200, 8 * 7, 40)
    assert move.shape == reward.shape == over.shape == (200, 8 * 7)
    assert over.sum(1).tolist() == [8] * 200
    assert float(reward[over].mean()) == pytest.approx(1.0, abs=0.1)
    assert float(reward[~over].mean()) == pytest.approx(0.0, abs=0.05)
    assert float(reward[~over].std()) == pytest.approx(1.0, abs=0.05)
    assert bool((after[:, :8] == before[:, 8:16]).all())


def test_the_counted_seeds_of_catch_are_not_those_the_learning_rate_was_chosen_with(monkeypatch):
    tuning, counted = set(), set()

    def train(self, rates, rounds, seed):
        (tuning if len(rates.unique()) > 1 else counted).add(seed)
        return torch.zeros(len(rates), rounds)

    monkeypatch.setattr(hl_gauss.QLearner, "train", train)
    for seed in range(3):
        hl_gauss.catch("small", seed)
    assert len(tuning) == len(counted) == 3
    assert not tuning & counted


@pytest.mark.parametrize("head", [hl_gauss.SQUARED_ERROR, hl_gauss.histogram("hl_gauss", hl_gauss.Q_RANGE)])
def test_a_q_learners_loss_is_that_of_the_moves_taken(head):
    learner = hl_gauss.QLearner(head)
    network = learner._network()
    observation, move = torch.rand(6, 40), torch.tensor([0, 1, 2, 2, 1, 0])
    target = torch.linspace(-1, 1, 6)
    outputs = network(observation).view(6, hl_gauss.MOVES, head.outputs)
    expected = head.loss(outputs[torch.arange(6), move], target)
    charged = learner._charged(dict(network.named_parameters()), (observation, move, target), {})
    assert charged.item() == pytest.approx(expected.item(), rel=1e-6)

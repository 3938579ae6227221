"""HL-Gauss: numbers learnt by classification, against two-hot targets in regression and squared error in Q-learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import make_friedman1
from torch import Tensor, nn

from minimand import losses
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.losses import ScalarSupport
from minimand.optim import BatchedTrainer, cosine_decay, rules, stack_modules
from minimand.study.training import batch_order

BINS = 51  # the paper's
RATES = (1e-3, 3e-3, 1e-2)
Params = dict[str, Tensor]


@dataclass(frozen=True)
class Head:
    """How a number is predicted: what a network gives for it, what that is charged, how it is read."""

    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]


SQUARED_ERROR = Head(1, lambda outputs, target: F.mse_loss(outputs[..., 0], target), lambda outputs: outputs[..., 0])


def histogram(kind: Literal["hl_gauss", "two_hot"], size: float) -> Head:
    """51 bins or atoms over [-size, size]."""
    support = ScalarSupport(-size, size, BINS, kind=kind)
    return Head(BINS, support.loss, support.decode)


def run(scale: Scale, seed: int) -> Measured:
    """Both halves of the claim."""
    effects, rows = regression(scale, seed)
    returns, curves = catch(scale, seed)
    effects["catch"] = Effect.gain(returns["HL-Gauss"], returns["MSE"])
    rows += [("Catch", "mean return", name, *_summary(found)) for name, found in returns.items()]
    return Measured(
        effects,
        Table(("task", "score", "learnt by", "mean", "lowest", "highest"), tuple(rows)),
        Figure("Catch: return of the greedy policy", "gradient steps", "return", curves),
        (
            f"Learning rates from {', '.join(f'{rate:g}' for rate in RATES)}: in regression chosen on validation rows "
            "of each data set, in Catch for each loss by its mean return over seeds that are not counted.",
        ),
    )


# Regression

NOISE = (0.1, 2.0)
DATA_SETS = {"smoke": 2, "small": 6, "full": 50}
EPOCHS = {"smoke": 1, "small": 40, "full": 40}
ROWS = {"train": 1000, "validation": 500, "test": 2000}
FEATURES, WIDTH, BATCH = 8, 128, 64
SPREAD = 4.0  # the histograms reach this many standard deviations of the targets to either side
TRAINED_TOGETHER = 12


@dataclass(frozen=True)
class DataSet:
    """Rows of a function of 8 numbers, three of which do not matter. Only the test target is free of noise.

    Targets are standardised by the training rows; ``scale`` is what their standard deviation was.
    """

    inputs: Mapping[str, Tensor]
    target: Mapping[str, Tensor]
    scale: float


def friedman(noise: float, seed: int) -> DataSet:
    """y = 10 sin(pi x_1 x_2) + 20 (x_3 - 1/2)^2 + 10 x_4 + 5 x_5 + noise, x even in [0, 1]^8: Friedman (1991)."""
    inputs, clean = make_friedman1(sum(ROWS.values()), FEATURES, noise=0.0, random_state=seed)
    noisy = clean + noise * np.random.default_rng(seed).standard_normal(len(clean))
    ends = np.cumsum(list(ROWS.values()))[:-1]
    parts = dict(zip(ROWS, np.split(np.arange(len(clean)), ends), strict=True))
    middle, scale = noisy[parts["train"]].mean(), noisy[parts["train"]].std()
    return DataSet(
        {split: torch.from_numpy(2 * inputs[rows] - 1).float() for split, rows in parts.items()},
        {
            split: torch.from_numpy(((clean if split == "test" else noisy)[rows] - middle) / scale).float()
            for split, rows in parts.items()
        },
        float(scale),
    )


def regression(scale: Scale, seed: int) -> tuple[dict[str, Effect], list[tuple[str | float, ...]]]:
    """How much nearer HL-Gauss comes to the function than two-hot, at each level of noise."""
    count = DATA_SETS[scale]
    levels = [noise for noise in NOISE for _ in range(count)]
    data = [friedman(noise, 1000 * seed + i % count) for i, noise in enumerate(levels)]
    learnt_by = {
        "MSE": SQUARED_ERROR,
        "two-hot": histogram("two_hot", SPREAD),
        "HL-Gauss": histogram("hl_gauss", SPREAD),
    }
    steps = EPOCHS[scale] * ROWS["train"] // BATCH
    errors = {name: fitted(head, data, steps, seed) for name, head in learnt_by.items()}
    effects: dict[str, Effect] = {}
    rows: list[tuple[str | float, ...]] = []
    for i, noise in enumerate(NOISE):
        own = {name: found[i * count : (i + 1) * count] for name, found in errors.items()}
        effects[f"noise {noise:g}"] = Effect.gain(own["HL-Gauss"], own["two-hot"], higher_is_better=False)
        rows += [(f"regression, noise {noise:g}", "test RMSE", name, *_summary(found)) for name, found in own.items()]
    return effects, rows


def fitted(head: Head, data: Sequence[DataSet], steps: int, seed: int) -> list[float]:
    """Each data set's test error, in the target's units, at the learning rate that validates best.

    All data sets and rates train as one stack of 8-128-128 networks; those of a data set start alike.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        params, call = stack_modules([_mlp(FEATURES, WIDTH, head.outputs) for _ in data])
    params = {name: value.repeat_interleave(len(RATES), 0) for name, value in params.items()}

    def charged(own: Params, batch: tuple[Tensor, ...], _: dict[str, Tensor]) -> Tensor:
        return head.loss(call(own, batch[0]), batch[1])

    inputs = torch.cat([each.inputs["train"] for each in data])
    target = torch.cat([each.target["train"] for each in data])
    rows = ROWS["train"]
    order = torch.stack([batch_order(rows, steps, BATCH, 1000 * seed + i) + i * rows for i in range(len(data))])
    trainer = BatchedTrainer(charged, rules.AdamW(), cosine_decay, chunk_size=TRAINED_TOGETHER)
    state = trainer.init(params, {"lr": torch.tensor(RATES).repeat(len(data)), "weight_decay": 0.0})
    params, _, _ = trainer.run(params, state, (inputs, target), order.repeat_interleave(len(RATES), 0))

    found = []
    for i, each in enumerate(data):
        own = {name: value[i * len(RATES) : (i + 1) * len(RATES)] for name, value in params.items()}
        error = {
            split: (head.predict(torch.vmap(call, in_dims=(0, None))(own, each.inputs[split])) - each.target[split])
            .square()
            .mean(-1)
            .sqrt()
            for split in ("validation", "test")
        }
        found.append(float(error["test"][error["validation"].argmin()]) * each.scale)
    return found


# Q-learning

BOARD = (8, 5)  # rows and columns
MOVES = 3  # left, stay, right
REWARD_NOISE = 1.0
DISCOUNT = 0.99
LEAST_EXPLORATION = 0.05
GAMES = 8  # played side by side between one target network and the next
STEPS_A_ROUND, MINIBATCH = 25, 32
ROUNDS = {"smoke": 4, "small": 60, "full": 60}  # 60 rounds of 25 are 1,500 gradient steps
TUNING_SEEDS = {"smoke": 1, "small": 4, "full": 16}
COUNTED_SEEDS = {"smoke": 3, "small": 24, "full": 100}
LAST_ROUNDS = 10  # whose mean return counts: one network's return jumps from round to round
Q_WIDTH = 64
Q_RANGE = 4.0  # returns lie in [-1, 1]; a target adds one reward's noise


class Catch:
    """Games side by side on a board of 8 rows and 5 columns: a ball falls a row a step, a paddle runs below it.

    The ball starts in the first row in ``column`` (...), the paddle in the middle of the last row. After seven steps
    the ball is in that row and the game ends, with reward 1 for the paddle under the ball and -1 otherwise; every
    other reward is 0. bsuite's Catch (Osband et al., 2020, arXiv:1908.03568), two rows shorter.
    """

    length = BOARD[0] - 1

    def __init__(self, column: Tensor) -> None:
        self.column = column
        self.paddle = torch.full_like(column, BOARD[1] // 2)
        self.row = 0

    def observation(self) -> Tensor:
        """(..., 40), 1 where the ball and the paddle are."""
        rows, columns = BOARD
        ball = F.one_hot(self.row * columns + self.column, rows * columns)
        paddle = F.one_hot((rows - 1) * columns + self.paddle, rows * columns)
        return torch.maximum(ball, paddle).float()

    def step(self, move: Tensor) -> tuple[Tensor, bool]:
        """The rewards (...) of moves (...) 0 left, 1 stay and 2 right, and whether the games are over."""
        self.paddle = (self.paddle + move - 1).clamp(0, BOARD[1] - 1)
        self.row += 1
        over = self.row == self.length
        caught = (self.paddle == self.column).float()
        return (2 * caught - 1 if over else torch.zeros_like(caught)), over


def catch(scale: Scale, seed: int) -> tuple[dict[str, list[float]], dict[str, tuple[tuple[float, float], ...]]]:
    """{loss: the return of each counted seed} and the mean learning curves, each loss at its best learning rate."""
    tuning, counted, rounds = TUNING_SEEDS[scale], COUNTED_SEEDS[scale], ROUNDS[scale]
    returns, curves = {}, {}
    for name, head in {"MSE": SQUARED_ERROR, "HL-Gauss": histogram("hl_gauss", Q_RANGE)}.items():
        learner = QLearner(head)
        tried = learner.train(torch.tensor(RATES).repeat_interleave(tuning), rounds, 2 * seed)
        by_rate = tried[:, -LAST_ROUNDS:].mean(1).view(len(RATES), tuning).mean(1)
        rate = RATES[int(by_rate.argmax())]
        found = learner.train(torch.full((counted,), rate), rounds, 2 * seed + 1)
        returns[name] = found[:, -LAST_ROUNDS:].mean(1).tolist()
        steps = [float(STEPS_A_ROUND * (i + 1)) for i in range(rounds)]
        curves[f"{name}, learning rate {rate:g}"] = tuple(zip(steps, found.mean(0).tolist(), strict=True))
    return returns, curves


class QLearner:
    """Deep Q-learning of Catch by many networks at once, whose rewards come with Gaussian noise of deviation 1.

    In each round a network plays 8 games, at random with a probability that falls from 1 to 0.05 over the first half
    of the rounds; then it takes 25 gradient steps on minibatches of all it has seen, towards
    r + 0.99 max_a Q(s', a) with Q as it was when the round began.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        _, self.call = stack_modules([self._network()])
        self.trainer = BatchedTrainer(self._charged, rules.AdamW())

    def train(self, rates: Tensor, rounds: int, seed: int) -> Tensor:
        """(B, rounds) what the greedy policy returns after each round, of a network for each of ``rates``."""
        trials = len(rates)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            params, _ = stack_modules([self._network() for _ in rates])
        state = self.trainer.init(params, {"lr": rates, "weight_decay": 0.0})
        index = torch.arange(trials * STEPS_A_ROUND * MINIBATCH).view(trials, STEPS_A_ROUND, MINIBATCH)
        seen: list[tuple[Tensor, ...]] = []
        returns = []
        for n in range(rounds):
            seen.append(self.play(params, max(LEAST_EXPLORATION, 1 - 2 * n / rounds), generator))
            memory = [torch.cat(each, 1) for each in zip(*seen, strict=True)]
            drawn = torch.randint(memory[0].shape[1], (trials, STEPS_A_ROUND * MINIBATCH), generator=generator)
            before, move, reward, after, over = (_taken(each, drawn) for each in memory)
            target = reward + DISCOUNT * ~over * self.values(params, after).amax(-1)
            data = (before.flatten(0, 1), move.flatten(), target.flatten())
            params, state, _ = self.trainer.run(params, state, data, index)
            returns.append(self.evaluate(params))
        return torch.stack(returns, 1)

    @torch.no_grad()
    def values(self, params: Params, observation: Tensor) -> Tensor:
        """Q (B, N, moves) of observations (B, N, 40)."""
        outputs = torch.vmap(self.call)(params, observation)
        return self.head.predict(outputs.unflatten(-1, (MOVES, self.head.outputs)))

    def play(self, params: Params, exploration: float, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Transitions (B, games x 7, ...): observation, move, noisy reward, next observation, whether over."""
        trials = next(iter(params.values())).shape[0]
        games = Catch(torch.randint(BOARD[1], (trials, GAMES), generator=generator))
        found = []
        observation, over = games.observation(), False
        while not over:
            random = torch.randint(MOVES, (trials, GAMES), generator=generator)
            explores = torch.rand(trials, GAMES, generator=generator) < exploration
            move = torch.where(explores, random, self.values(params, observation).argmax(-1))
            reward, over = games.step(move)
            reward = reward + REWARD_NOISE * torch.randn(reward.shape, generator=generator)
            after = games.observation()
            found.append((observation, move, reward, after, torch.full_like(move, over, dtype=torch.bool)))
            observation = after
        return tuple(torch.cat(each, 1) for each in zip(*found, strict=True))

    def evaluate(self, params: Params) -> Tensor:
        """(B,) the greedy policy's mean return, exact: all there is to chance is the ball's column."""
        trials = next(iter(params.values())).shape[0]
        games = Catch(torch.arange(BOARD[1]).expand(trials, -1))
        total, over = torch.zeros(trials, BOARD[1]), False
        while not over:
            reward, over = games.step(self.values(params, games.observation()).argmax(-1))
            total = total + reward
        return total.mean(1)

    def _network(self) -> nn.Module:
        return _mlp(BOARD[0] * BOARD[1], Q_WIDTH, MOVES * self.head.outputs)

    def _charged(self, own: Params, batch: tuple[Tensor, ...], _: dict[str, Tensor]) -> Tensor:
        observation, move, target = batch
        outputs = self.call(own, observation).unflatten(-1, (MOVES, self.head.outputs))
        chosen = move[:, None, None].expand(-1, 1, self.head.outputs)
        return self.head.loss(outputs.gather(1, chosen)[:, 0], target)


def _mlp(features: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def _taken(memory: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, M) of each trial's own memory (B, N, ...)."""
    return memory[torch.arange(len(memory))[:, None], index]


def _summary(found: Sequence[float]) -> tuple[float, float, float]:
    return float(np.mean(found)), min(found), max(found)


CLAIM = Claim(
    statement="HL-Gauss regresses an 8-dimensional function with a smaller error than two-hot targets do, with little "
    "and with much noise, and learns Catch with noisy rewards to a return at least 0.05 above squared error's.",
    refuted_by="a 95% interval of the paired difference in test error, at either level of noise, on the wrong side of "
    "0, or one of the difference in return below 0.05",
    thresholds={
        "noise 0.1": Threshold("test RMSE under two-hot's, noise 0.1", above=0.0),
        "noise 2": Threshold("test RMSE under two-hot's, noise 2", above=0.0),
        "catch": Threshold("gain in return over squared error on Catch with noisy rewards", above=0.05),
    },
    parts=(losses.ScalarSupport,),
    run=run,
    full="50 data sets and 100 seeds of Catch; ten minutes",
)

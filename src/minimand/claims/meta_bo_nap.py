"""NAP: rewards of a search that knows nothing are rare, and a likelihood makes up for them when a search is learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import (
    RBF,
    BarDistribution,
    GaussianProcess,
    NeuralAcquisitionProcess,
    expected_improvement,
    expected_records,
    generalized_advantages,
    linear_decay,
    ppo_objective,
    rules,
    stack_modules,
)

PERMUTATIONS = {"smoke": 200, "small": 20_000, "full": 20_000}
LENGTH = 100  # of what is permuted
SEEDS = {"smoke": 2, "small": 3, "full": 12}
UPDATES = {"smoke": 1, "small": 80, "full": 1000}
EPISODES, EPOCHS = 16, 3  # searches an update, and steps of the optimizer that it takes of them
TESTED = {"smoke": 4, "small": 256, "full": 1024}
CANDIDATES, QUERIES = 30, 8
SIDE = 5.0  # of the interval around 0 in which candidates lie, in lengthscales
KERNEL, NOISE = RBF(1.0), 1e-6  # of the process that functions are drawn from
SIZES = {"width": 32, "layers": 2, "heads": 4, "buckets": 40, "bound": 4.0, "hidden": 32}
RATE, WARMUP, CLIP_NORM = 8e-3, 10, 0.5
LEAST_REGRET = 0.01  # in a reward's logarithm
WITH, WITHOUT = "learnt with the likelihood", "learnt without it"
LIKELIHOODS = (1.0, 0.0)  # weights of its term
Params = dict[str, Tensor]
Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Functions:
    """Functions at 30 places each: candidates (..., E, 30, 1) and their values (..., E, 30)."""

    candidates: Tensor
    values: Tensor

    @classmethod
    def drawn(cls, count: int, generator: torch.Generator) -> Functions:
        """Functions of a Gaussian process at places drawn evenly from an interval."""
        x = SIDE * (torch.rand(count, CANDIDATES, 1, generator=generator, dtype=torch.float64) - 0.5)
        covariance = KERNEL(x, x) + NOISE * torch.eye(CANDIDATES, dtype=torch.float64)
        noise = torch.randn(count, CANDIDATES, 1, generator=generator, dtype=torch.float64)
        return cls(x.float(), (torch.linalg.cholesky(covariance) @ noise)[..., 0].float())

    @classmethod
    def stacked(cls, parts: Sequence[Functions]) -> Functions:
        """Sets of functions side by side, in a leading dimension."""
        return cls(torch.stack([part.candidates for part in parts]), torch.stack([part.values for part in parts]))

    def first(self, count: int) -> Functions:
        """The first ``count`` sets of those side by side."""
        return Functions(self.candidates[:count], self.values[:count])

    def regret(self, chosen: Tensor) -> Tensor:
        """(..., E, t), the best value of all less the best of those chosen (..., E, t) so far."""
        return self.values.amax(-1, keepdim=True) - self.values.gather(-1, chosen).cummax(-1).values

    def random_regret(self) -> Tensor:
        """(..., E), the regret that 8 of the 30 leave when drawn at random: its mean over all such draws."""
        below = range(CANDIDATES)
        # the k-th smallest is the best drawn where the other 7 are among the k below it
        ways = [math.comb(k, QUERIES - 1) / math.comb(CANDIDATES, QUERIES) for k in below]
        ordered = self.values.double().sort(-1).values
        return ordered[..., -1] - ordered @ torch.tensor(ways, dtype=torch.float64)


def play(functions: Functions, score: Score, noise: Tensor | None = None) -> Tensor:
    """What is chosen (..., E, 8), one after the other, where the score plus noise (8, ..., E, 30) is largest.

    ``score`` takes points (..., E, t, 1), values (..., E, t), candidates and which of them are used (..., E, 30).
    """
    used = torch.zeros_like(functions.values, dtype=torch.bool)
    chosen = torch.empty(*used.shape[:-1], 0, dtype=torch.int64)
    for t in range(QUERIES):
        points = functions.candidates.gather(-2, chosen[..., None])
        found = score(points, functions.values.gather(-1, chosen), functions.candidates, used)
        found = found.masked_fill(used, -torch.inf) if noise is None else found.masked_fill(used, -torch.inf) + noise[t]
        chosen = torch.cat([chosen, found.argmax(-1, keepdim=True)], -1)
        used = used.scatter(-1, chosen, True)
    return chosen


def by_expected_improvement(points: Tensor, values: Tensor, candidates: Tensor, used: Tensor) -> Tensor:
    """Expected improvement under the very process that the functions come from: no learning could do much better."""
    if values.shape[-1] == 0:
        return candidates[..., 0].abs().neg()
    process = GaussianProcess(KERNEL, NOISE).condition(points.double(), values.double())
    mean, deviation = process.marginals(candidates.double())
    return expected_improvement(mean, deviation, values.double().amax(-1, keepdim=True))


@dataclass
class Learners:
    """Processes that learn side by side, {name: (P, ...)}, and how one of them is called."""

    params: Params
    call: Callable[..., Any]
    bars: BarDistribution
    likelihoods: Tensor  # (P,) weights of the likelihood term

    @classmethod
    def started(cls, seeds: Sequence[int]) -> Learners:
        """For each seed one process a weight of the likelihood, which start alike: those with it first."""
        with torch.random.fork_rng(devices=[]):
            modules = []
            for seed in seeds:
                torch.manual_seed(seed)
                modules.append(NeuralAcquisitionProcess(1, **SIZES))
        params, call = stack_modules(modules * len(LIKELIHOODS))
        weights = torch.tensor(LIKELIHOODS).repeat_interleave(len(seeds))
        return cls({k: v.requires_grad_() for k, v in params.items()}, call, modules[0].bars, weights)

    def score(self, points: Tensor, values: Tensor, candidates: Tensor, used: Tensor) -> Tensor:
        """Every process's acquisition (P, E, 30), each in functions of its own."""
        progress = torch.tensor(values.shape[-1] / QUERIES)

        def one(own: Params, *given: Tensor) -> Tensor:
            return self.call(own, *given, progress).acquisition

        with torch.no_grad():
            return torch.func.vmap(one)(self.params, points, values, candidates)

    def learn(self, updates: int, fresh: Callable[[int], Functions], noise: torch.Generator) -> None:
        """``updates`` times: search in new functions (P, E) by the policies, then take steps on what came of it."""
        optimizer = optim.RuleOptimizer(list(self.params.values()), rules.AdamW(), lr=RATE, weight_decay=0.0)
        for update in range(updates):
            for group in optimizer.param_groups:
                group["lr"] = RATE * linear_decay(update, updates, WARMUP)
            drawn = fresh(EPISODES)
            chosen = play(drawn, self.score, gumbel(drawn, noise))
            policy, value, likelihood = self.replay(drawn, chosen)
            old = policy.detach()
            advantage, returns = judged(drawn.regret(chosen), value.detach())
            for epoch in range(EPOCHS):
                if epoch:
                    policy, value, likelihood = self.replay(drawn, chosen)
                loss = torch.func.vmap(ppo_objective)(policy, old, advantage) + (value - returns).square().mean((1, 2))
                optimizer.zero_grad()
                (loss - self.likelihoods * likelihood).sum().backward()
                self.clip()
                optimizer.step()

    def replay(self, functions: Functions, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability and value (P, E, 8) of every choice, and the mean log-likelihood (P,) of all true values."""
        points = functions.candidates.gather(-2, chosen[..., None])
        values = functions.values.gather(-1, chosen)
        known = torch.ones(QUERIES, QUERIES, dtype=torch.bool).tril(-1)
        progress = torch.arange(QUERIES) / QUERIES
        hot = F.one_hot(chosen, CANDIDATES)
        used = (hot.cumsum(-2) - hot).bool()

        def one(own: Params, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            points, values, candidates, truth, used, chosen = given
            found = self.call(own, points[:, None], values[:, None], candidates[:, None], progress, known, used)
            policy = found.acquisition.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
            likelihood = self.bars.log_prob(found.logits, truth[:, None]).mean()
            return policy, found.value, likelihood

        return torch.func.vmap(one)(self.params, points, values, functions.candidates, functions.values, used, chosen)

    def clip(self) -> None:
        """Hold the length of each process's gradient to 0.5."""
        grads = [param.grad for param in self.params.values() if param.grad is not None]
        length = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
        share = (CLIP_NORM / length).clamp(max=1)
        for grad in grads:
            grad.mul_(share.view(-1, *[1] * (grad.ndim - 1)))


def run(scale: Scale, seed: int) -> Measured:
    """Records in random orders; then processes trained with and without the likelihood, and their searches."""
    found = records(PERMUTATIONS[scale], seed)
    apart = abs(found.mean - expected_records(LENGTH)) / found.error

    seeds = [1000 * seed + i for i in range(SEEDS[scale])]
    generators = [torch.Generator().manual_seed(s) for s in seeds]

    def fresh(count: int) -> Functions:
        return Functions.stacked([Functions.drawn(count, generator) for generator in generators] * len(LIKELIHOODS))

    learners = Learners.started(seeds)
    noise = torch.Generator().manual_seed(seed)
    learners.learn(UPDATES[scale], fresh, noise)
    tested = fresh(TESTED[scale])
    half = tested.first(len(seeds))  # both kinds of process are tested in the same functions
    sampled = tested.regret(play(tested, learners.score, gumbel(tested, noise))).mean(-2)  # (P, 8)
    greedy = tested.regret(play(tested, learners.score)).mean(-2)
    blind = half.regret(play(half, blindly, gumbel(half, noise))).mean(-2)
    best = half.regret(play(half, by_expected_improvement)).mean(-2)
    count = len(seeds)
    curves = {
        WITH: sampled[:count],
        WITHOUT: sampled[count:],
        f"{WITH}, greedily": greedy[:count],
        f"{WITHOUT}, greedily": greedy[count:],
        "at random": blind,
        "expected improvement, the true process": best,
    }
    with_it, without = (curves[name][:, -1].tolist() for name in (WITH, WITHOUT))
    chance = half.random_regret().mean(-1).tolist()
    rows: list[tuple[str | float | int, ...]] = [
        ("at random, exactly", float(np.mean(chance)), min(chance), max(chance))
    ]
    for name, curve in curves.items():
        last = curve[:, -1].tolist()
        rows.append((name, float(np.mean(last)), min(last), max(last)))
    return Measured(
        {
            "regret": Effect.gain(with_it, chance, higher_is_better=False),
            "likelihood": Effect.gain(with_it, without, higher_is_better=False),
            "records": Effect.exact(apart),
        },
        Table(("search", "mean regret after 8 queries", "lowest seed", "highest seed"), tuple(rows)),
        Figure(
            "Mean regret of searches in new functions",
            "queries",
            "regret",
            {name: list(enumerate(curve.mean(0).tolist(), 1)) for name, curve in curves.items()},
            log_y=True,
        ),
        (
            f"Records in {PERMUTATIONS[scale]:,} random orders of {LENGTH}: {found.mean:.4f} in the mean, of which "
            f"{expected_records(LENGTH):.4f} were expected.",
            f"{count} seeds, {UPDATES[scale] * EPISODES:,} searches each to learn from; every search is drawn by the "
            "policy, as it was trained, unless called greedy.",
        ),
    )


def judged(regret: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages, standardised for each process, and returns (P, E, 8) from the regrets and the values foreseen."""
    advantage = generalized_advantages(-(regret + LEAST_REGRET).log10(), values)
    returns = advantage + values
    return (advantage - advantage.mean((1, 2), keepdim=True)) / advantage.std((1, 2), keepdim=True), returns


@dataclass(frozen=True)
class Mean:
    """A mean, and its standard error."""

    mean: float
    error: float


def records(orders: int, seed: int) -> Mean:
    """How often a value exceeds all before it, over random orders of 100."""
    drawn = np.random.default_rng(seed).random((orders, LENGTH))
    counts = (drawn == np.maximum.accumulate(drawn, axis=1)).sum(1)
    return Mean(float(counts.mean()), float(counts.std(ddof=1) / math.sqrt(orders)))


def gumbel(functions: Functions, generator: torch.Generator) -> Tensor:
    """Noise (8, ..., E, 30): the largest of scores plus it is a draw by their softmax."""
    uniform = torch.rand(QUERIES, *functions.values.shape, generator=generator)
    return -(-uniform.clamp(min=1e-30).log()).log()


def blindly(points: Tensor, values: Tensor, candidates: Tensor, used: Tensor) -> Tensor:
    """The same score for all."""
    return torch.zeros(used.shape)


CLAIM = Claim(
    statement="A process trained by PPO on whole searches in drawn functions leaves less regret after 8 queries of 30 "
    "candidates than chance does, and training it without the likelihood term leaves more; chance itself improves on "
    "its best so far H_T times in T steps.",
    refuted_by="a mean regret that is not below chance's, or not below that of processes trained without the "
    "likelihood, with its 95% interval over seeds; or a mean number of records 3 standard errors off",
    thresholds={
        "regret": Threshold("regret below chance's after 8 queries", above=0.0),
        "likelihood": Threshold("regret below that of training without the likelihood term", above=0.0),
        "records": Threshold("standard errors between mean records and H_100", below=3.0),
    },
    parts=(
        optim.NeuralAcquisitionProcess,
        optim.BarDistribution,
        optim.ppo_objective,
        optim.generalized_advantages,
        optim.expected_records,
    ),
    run=run,
    full="12 seeds, 1000 updates; an hour",
)

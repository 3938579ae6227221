"""IGNITE: designs found by climbing a surrogate are better where its mean prediction was kept from being sharp."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand import optim
from minimand.claims.claim import Claim, Effect, Measured, Scale, Table, Threshold
from minimand.optim import BatchedTrainer, ascend_surrogate, constant, gradient_norm_penalty, rules, stack_modules
from minimand.study.training import batch_order

SEEDS = {"smoke": 2, "small": 8, "full": 50}
STEPS = {"smoke": 5, "small": 1500, "full": 1500}
MULTIPLIERS = (0.0, 0.1, 1.0, 10.0)  # lambda
DIM, SIDE = 6, 5.0  # designs lie in [-5, 5]^6
SAMPLED, KEPT, HELD_OUT = 4000, 1000, 100
RHO = 0.05  # how far the parameters may move, and the distance of the difference
RATE, BATCH, HIDDEN = 1e-3, 32, 64
STARTS, ASCENT, ASCENT_RATE = 64, 100, 0.01
Params = dict[str, Tensor]


def styblinski_tang(x: Tensor) -> Tensor:
    """-1/2 sum (x^4 - 16 x^2 + 5 x) of designs (..., 6): largest, 39.166 a coordinate, at -2.9035."""
    return -(x**4 - 16 * x**2 + 5 * x).sum(-1) / 2


def ackley(x: Tensor) -> Tensor:
    """20 e^(-0.2 rms(x)) + e^(mean cos 2 pi x) - 20 - e of designs (..., 6): largest, 0, at 0."""
    return 20 * (-0.2 * x.square().mean(-1).sqrt()).exp() + (2 * math.pi * x).cos().mean(-1).exp() - 20 - math.e


def rastrigin(x: Tensor) -> Tensor:
    """-sum (10 + x^2 - 10 cos 2 pi x) of designs (..., 6): largest, 0, at 0."""
    return -(10 + x.square() - 10 * (2 * math.pi * x).cos()).sum(-1)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Styblinski-Tang": styblinski_tang,
    "Ackley": ackley,
    "Rastrigin": rastrigin,
}


@dataclass(frozen=True)
class Log:
    """Logged designs (1000, 6) and values (1000,), the worst first, both standardised; and what undoes that."""

    function: Callable[[Tensor], Tensor]
    designs: Tensor
    values: Tensor
    center: Tensor
    spread: Tensor
    mean: float
    deviation: float

    @classmethod
    def drawn(cls, function: Callable[[Tensor], Tensor], seed: int) -> Log:
        """1000 of the worse half of 4000 even samples: designs better than the median were never logged."""
        generator = torch.Generator().manual_seed(seed)
        sampled = SIDE * (2 * torch.rand(SAMPLED, DIM, generator=generator) - 1)
        values = function(sampled)
        worse = values.argsort()[: SAMPLED // 2]
        kept = worse[torch.randperm(SAMPLED // 2, generator=generator)[:KEPT].sort().values]
        center, spread = sampled[kept].mean(0), sampled[kept].std(0)
        logged = (values[kept] - values[kept].mean()) / values[kept].std()
        standard = (sampled[kept] - center) / spread
        return cls(function, standard, logged, center, spread, float(values.mean()), float(values.std()))

    def score(self, designs: Tensor) -> Tensor:
        """What standardised designs are worth, in deviations above the mean of all 4000 samples.

        Designs outside the box are moved to its surface.
        """
        x = (self.center + self.spread * designs).clamp(-SIDE, SIDE)
        return (self.function(x) - self.mean) / self.deviation


def run(scale: Scale, seed: int) -> Measured:
    """Surrogates with every multiplier on every log, the multiplier chosen on the log, and designs by ascent."""
    seeds = [1000 * seed + i for i in range(SEEDS[scale])]
    logs = [Log.drawn(function, s) for function in FUNCTIONS.values() for s in seeds]
    many = seeds * len(FUNCTIONS)
    partial, call = trained(logs, KEPT - HELD_OUT, STEPS[scale], many)
    best = torch.stack([log.designs[-HELD_OUT:] for log in logs])
    truth = torch.stack([log.values[-HELD_OUT:] for log in logs])
    error = (per_log(call, partial, best) - truth[:, None]).square().mean(-1)  # (logs, multipliers)
    chosen = error.argmin(1)

    whole, call = trained(logs, KEPT, STEPS[scale], many)
    found = ascended(call, whole, torch.stack([log.designs[-STARTS:] for log in logs]))
    score = torch.stack([log.score(designs).amax(-1) for log, designs in zip(logs, found, strict=True)])
    score = torch.cat([score, score.gather(1, chosen[:, None])], 1)
    logged = torch.stack([log.score(log.designs[-1:])[0] for log in logs])

    labels = [*(f"lambda {multiplier:g}" for multiplier in MULTIPLIERS), "chosen"]
    rows: list[tuple[str | float | int, ...]] = []
    gains: list[Effect] = []
    for i, name in enumerate(FUNCTIONS):
        own = slice(i * len(seeds), (i + 1) * len(seeds))
        rows.append((name, "best logged design", *summary(logged[own]), ""))
        for j, label in enumerate(labels):
            times = int((chosen[own] == j).sum()) if j < len(MULTIPLIERS) else ""
            rows.append((name, label, *summary(score[own, j]), times))
        gains.append(Effect.gain(score[own, -1].tolist(), score[own, 0].tolist()))
    middle = Effect(*(median(getattr(gain, part) for gain in gains) for part in ("value", "low", "high")))
    notes = tuple(
        f"{name}: gain {gain.value:.3f}, 95% interval {gain.low:.3f} to {gain.high:.3f}."
        for name, gain in zip(FUNCTIONS, gains, strict=True)
    )
    columns = ("function", "surrogate", "mean best score", "lowest", "highest", "chosen by seeds")
    return Measured(
        {"gain": middle},
        Table(columns, tuple(rows)),
        notes=(*notes, "Value and both ends of the effect are each the middle one of the three functions'."),
    )


def summary(scores: Tensor) -> tuple[float, float, float]:
    """Mean, lowest and highest."""
    return float(np.mean(scores.tolist())), float(scores.min()), float(scores.max())


def network() -> nn.Module:
    """Two hidden layers of 64 rectified units."""
    return nn.Sequential(
        nn.Linear(DIM, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Flatten(0)
    )


def trained(logs: list[Log], rows: int, steps: int, seeds: list[int]) -> tuple[Params, Callable[..., Tensor]]:
    """Surrogates (logs x multipliers, ...) of the first ``rows`` of each log; those of one log start alike."""
    with torch.random.fork_rng(devices=[]):
        modules = []
        for seed in seeds:
            torch.manual_seed(seed)
            modules.append(network())
    params, call = stack_modules(modules)
    params = {name: value.repeat_interleave(len(MULTIPLIERS), 0) for name, value in params.items()}

    def charged(own: Params, batch: tuple[Tensor, ...], hyper: Params) -> Tensor:
        designs, values = batch
        return F.mse_loss(call(own, designs), values) + hyper["multiplier"].to(values.dtype) * gradient_norm_penalty(
            call, own, designs, RHO, RHO
        )

    data = torch.cat([log.designs for log in logs]), torch.cat([log.values for log in logs])
    order = torch.stack([batch_order(rows, steps, BATCH, seed) + i * KEPT for i, seed in enumerate(seeds)])
    trainer = BatchedTrainer(charged, rules.AdamW(), constant)
    multipliers = torch.tensor(MULTIPLIERS, dtype=torch.float64).repeat(len(logs))
    state = trainer.init(params, {"lr": RATE, "weight_decay": 0.0, "multiplier": multipliers})
    params, _, _ = trainer.run(params, state, data, order.repeat_interleave(len(MULTIPLIERS), 0))
    return params, call


def per_log(call: Callable[..., Tensor], params: Params, designs: Tensor) -> Tensor:
    """Predictions (logs, multipliers, n) for each log's designs (logs, n, 6)."""
    each = designs.repeat_interleave(len(MULTIPLIERS), 0)
    return torch.func.vmap(call)(params, each).unflatten(0, (len(designs), -1))


def ascended(call: Callable[..., Tensor], params: Params, starts: Tensor) -> Tensor:
    """Designs (logs, multipliers, n, 6) that every surrogate leads to from its log's starts (logs, n, 6)."""

    def one(own: Params, start: Tensor) -> Tensor:
        return ascend_surrogate(lambda x: call(own, x), start, ASCENT, ASCENT_RATE)

    each = starts.repeat_interleave(len(MULTIPLIERS), 0)
    return torch.func.vmap(one)(params, each).unflatten(0, (len(starts), -1))


CLAIM = Claim(
    statement="On at least two of three functions of six numbers, of which only designs below the median were logged, "
    "ascent on a surrogate finds a better best design if it was trained with the penalty on its gradient norm, "
    "weighted by what predicts held-out designs best.",
    refuted_by="no gain in the best design's score, or a loss, on two of the three functions, with its 95% interval",
    thresholds={"gain": Threshold("gain in the best design's score, the middle of three functions", above=0.0)},
    parts=(optim.gradient_norm_penalty, optim.ascend_surrogate),
    run=run,
    full="50 seeds; five minutes",
)

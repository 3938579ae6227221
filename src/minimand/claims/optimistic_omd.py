"""Optimistic mirror descent: its regret follows the gradients' noise and drift, not the horizon."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import AdaptiveRate, Ball, OptimisticMirrorDescent, play_online, sea_regret_bound

HORIZONS: dict[Scale, tuple[int, ...]] = {
    "smoke": (20, 80, 320),
    "small": (500, 2000, 8000),
    "full": (500, 2000, 8000, 32_000),
}
SEEDS = {"smoke": 6, "small": 20, "full": 100}
NOISES = (0.0, 0.1, 0.5)
DIM, CENTER, DIAMETER, SMOOTHNESS = 5, 0.5, 2.0, 1.0


def run(scale: Scale, seed: int) -> Measured:
    """f_t(x) = ||x - c||^2 / 2 + <noise_t, x> in the unit ball: one game a seed and noise, read at every horizon."""
    horizons, seeds = HORIZONS[scale], SEEDS[scale]
    generator = torch.Generator().manual_seed(seed)
    centers = CENTER * on_sphere((seeds, DIM), generator)
    regrets = {noise: regret_at(horizons, noise, centers, generator) for noise in NOISES}  # (horizons, seeds)
    bounds = {noise: [bound(noise, horizon) for horizon in horizons] for noise in NOISES}
    slopes = {noise: np.polyfit(np.log(horizons), np.log(regrets[noise]), 1)[0] for noise in NOISES[1:]}
    flat = regrets[0.0]
    return Measured(
        {
            "without noise": Effect.exact(float((flat[-1] / flat[0]).max())),
            "little noise": Effect.mean(slopes[NOISES[1]].tolist()),
            "much noise": Effect.mean(slopes[NOISES[2]].tolist()),
            "bound": Effect.exact(
                max(float((regrets[noise].mean(1) / np.array(bounds[noise])).max()) for noise in NOISES)
            ),
        },
        Table(
            ("noise", "horizon", "mean regret", "lowest", "highest", "bound"),
            tuple(
                (noise, horizon, float(found.mean()), float(found.min()), float(found.max()), bounds[noise][i])
                for noise in NOISES
                for i, (horizon, found) in enumerate(zip(horizons, regrets[noise], strict=True))
            ),
        ),
        Figure(
            "Mean regret",
            "rounds",
            "regret",
            {f"noise {noise:g}": list(zip(horizons, regrets[noise].mean(1).tolist(), strict=True)) for noise in NOISES},
            log_x=True,
            log_y=True,
        ),
        (f"{seeds} seeds; the rule for the rate knows neither the noise nor the horizon.",),
    )


def regret_at(horizons: tuple[int, ...], noise: float, centers: Tensor, generator: torch.Generator) -> np.ndarray:
    """(horizons, seeds): the regret against the best fixed point of the first rounds, as many as each horizon."""
    rounds = horizons[-1]
    noises = noise * on_sphere((rounds, len(centers), DIM), generator)
    rate = AdaptiveRate(diameter=DIAMETER, gradient=gradient_bound(noise), smoothness=SMOOTHNESS)
    losses = [lambda x, z=z: quadratic(x, centers, z) for z in noises]
    lost = play_online(OptimisticMirrorDescent(Ball(1.0), rate), losses, torch.zeros_like(centers)).losses
    found = []
    for horizon in horizons:
        mean = noises[:horizon].mean(0)
        best = Ball(1.0).coordinates(centers - mean)  # the sum is a round bowl: its minimiser, projected
        found.append(lost[:horizon].sum(0) - horizon * quadratic(best, centers, mean))
    return torch.stack(found).numpy()


def quadratic(x: Tensor, center: Tensor, noise: Tensor) -> Tensor:
    """||x - c||^2 / 2 + <noise, x>."""
    return (x - center).square().sum(-1) / 2 + (noise * x).sum(-1)


def on_sphere(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Vectors of length 1, all directions alike."""
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def gradient_bound(noise: float) -> float:
    """The longest gradient in the ball."""
    return 1 + CENTER + noise


def bound(noise: float, horizon: int) -> float:
    """What the expected regret stays under: nothing drifts."""
    return sea_regret_bound(DIAMETER, gradient_bound(noise), SMOOTHNESS, variance=horizon * noise**2, drift=0.0)


CLAIM = Claim(
    statement="On one smooth convex loss that does not drift, optimistic mirror descent's regret stops growing where "
    "gradients have no noise, and grows like the square root of the rounds where they do, under the bound throughout.",
    refuted_by="a regret without noise that is over 1.05 times larger at the longest horizon than at the shortest, a "
    "growth in the noisy games whose exponent lies above 0.65 with its interval, or a mean regret above the bound",
    thresholds={
        "without noise": Threshold("largest regret at the last horizon over that at the first", below=1.05),
        "little noise": Threshold(f"exponent of the regret's growth at noise {NOISES[1]:g}", below=0.65),
        "much noise": Threshold(f"exponent of the regret's growth at noise {NOISES[2]:g}", below=0.65),
        "bound": Threshold("largest mean regret over its bound", below=1.0),
    },
    parts=(optim.OptimisticMirrorDescent, optim.play_online, optim.sea_regret_bound),
    run=run,
    full="100 seeds and 32,000 rounds; two minutes",
)

"""Comp-sum losses: how much 0-1 error a small loss still allows, tested on random distributions and scores."""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor

from minimand import losses
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.losses import comp_sum_bound, comp_sum_loss
from minimand.losses.consistency import comp_sum_transformation

CASES = {"smoke": 2_000, "small": 200_000, "full": 10_000_000}
CLASSES = (2, 3, 5)
TAUS = (0.0, 0.5, 1.0, 1.3, 1.7, 2.0, 2.5)
TIGHT_UP_TO = 1.0  # the tau for which the paper proves that the bound cannot be improved
BINS = 20
AT_ONCE = 100_000


def run(scale: Scale, seed: int) -> Measured:
    """For each tau and number of classes: does the bound hold on every case, and how near does one come to it?"""
    generator = torch.Generator().manual_seed(seed)
    violation = dict.fromkeys(((tau, n) for tau in TAUS for n in CLASSES), -inf)
    tightness = dict.fromkeys(violation, torch.zeros(BINS, dtype=torch.float64))
    for n in CLASSES:
        for start in range(0, CASES[scale], AT_ONCE):
            probs, scores = cases(min(AT_ONCE, CASES[scale] - start), n, generator)
            wrong = zero_one_regret(probs, scores)
            for tau in TAUS:
                gap = comp_sum_regret(probs, scores, tau)
                excess = float((wrong - comp_sum_bound(gap, tau, n)).max())
                violation[tau, n] = max(violation[tau, n], excess)
                tightness[tau, n] = torch.maximum(tightness[tau, n], best_ratios(wrong, gap, tau, n))
    best = {case: float(ratios.max()) for case, ratios in tightness.items()}
    rows = tuple((tau, max(violation[tau, n] for n in CLASSES), *(best[tau, n] for n in CLASSES)) for tau in TAUS)
    middles = [(i + 0.5) / BINS for i in range(BINS)]
    return Measured(
        {
            "violation": Effect.exact(max(violation.values())),
            "tightness": Effect.exact(min(ratio for (tau, _), ratio in best.items() if tau <= TIGHT_UP_TO)),
        },
        Table(("tau", "largest violation", *(f"best ratio, {n} classes" for n in CLASSES)), rows),
        Figure(
            "How near the worst case of each 0-1 regret comes to the bound, 3 classes",
            "0-1 regret",
            "comp-sum regret of the bound / least found",
            {f"tau = {tau:g}": tuple(zip(middles, tightness[tau, 3].tolist(), strict=True)) for tau in TAUS},
        ),
        (
            f"{CASES[scale]:,} distributions and scores for each number of classes, the same for every tau; half of "
            "them lie near the worst case of two classes that tie.",
        ),
    )


def cases(count: int, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Class probabilities and scores, both (count, n) in float64.

    The first half are drawn at large: from even to nearly certain probabilities, scores of any size up to 20. In the
    second half two classes hold nearly all the mass and their scores all but tie, often the wrong way round, the
    other classes far behind: there the bound would be broken first.
    """

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=generator)

    half = count // 2
    peakedness = uniform(half, 1, low=0.0, high=6.0)
    probs = (peakedness * uniform(half, num_classes, low=-1.0)).softmax(1)
    scores = 10 ** uniform(half, 1, low=-3.0, high=log(20) / log(10)) * uniform(half, num_classes, low=-1.0)

    rest = count - half
    near_probs = (uniform(rest, num_classes, low=-30.0, high=-5.0)).softmax(1) * 10 ** uniform(
        rest, 1, low=-12, high=-2
    )
    margin = uniform(rest, 1, low=-1.0)  # of the first class over the second
    near_probs[:, :2] += (1 + torch.cat([margin, -margin], 1)) / 2
    near_probs = near_probs / near_probs.sum(1, keepdim=True)
    near_scores = uniform(rest, num_classes, low=-20.0, high=-15.0)
    lead = 10 ** uniform(rest, 1, low=-8.0, high=0.0) * torch.where(uniform(rest, 1) < 0.5, -1.0, 1.0)
    near_scores[:, :2] = torch.cat([lead, -lead], 1) / 2
    return torch.cat([probs, near_probs]), torch.cat([scores, near_scores])


def zero_one_regret(probs: Tensor, scores: Tensor) -> Tensor:
    """max_k p_k - p_h (N,): what predicting h = argmax of the scores errs beyond the best prediction."""
    return probs.amax(1) - probs.gather(1, scores.argmax(1, keepdim=True))[:, 0]


def comp_sum_regret(probs: Tensor, scores: Tensor, tau: float) -> Tensor:
    """sum_y p_y l_tau(scores, y) - min over scores (N,), never negative."""
    count, num_classes = probs.shape
    charged = comp_sum_loss(
        scores.repeat_interleave(num_classes, 0), torch.arange(num_classes).repeat(count), tau, reduction="none"
    )
    risk = (probs * charged.view(count, num_classes)).sum(1)
    return (risk - least_risk(probs, tau)).clamp(min=0.0)


def least_risk(probs: Tensor, tau: float) -> Tensor:
    """min over scores of sum_y p_y l_tau(scores, y), in closed form (N,).

    With q the softmax of the scores the risk is (1 - sum_y p_y q_y^(tau - 1)) / (tau - 1), least at q proportional to
    p^(1 / (2 - tau)) for tau < 2, where the sum is ||p|| in the norm of exponent 1 / (2 - tau); the entropy at
    tau = 1; and for tau >= 2, where the sum is convex in q, at all of q on the likeliest class.
    """
    if tau == 1:
        return -torch.special.xlogy(probs, probs).sum(1)
    if tau >= 2:
        return (1 - probs.amax(1)) / (tau - 1)
    return (1 - probs.pow(1 / (2 - tau)).sum(1).pow(2 - tau)) / (tau - 1)


def best_ratios(wrong: Tensor, gap: Tensor, tau: float, num_classes: int) -> Tensor:
    """Largest T_tau(0-1 regret) / comp-sum regret by 0-1 regret, (BINS,): 1 where a case attains the bound."""
    allowed = comp_sum_transformation(wrong, tau, num_classes)
    ratio = torch.where(wrong > 0, allowed / torch.where(gap > 0, gap, 1), 0)
    bins = (wrong * BINS).long().clamp(max=BINS - 1)
    return torch.zeros(BINS, dtype=torch.float64).scatter_reduce(0, bins, ratio, "amax")


CLAIM = Claim(
    statement="For every distribution over classes and all scores the 0-1 regret is at most Gamma_tau of the comp-sum "
    "regret, and for tau up to 1 no smaller bound would do.",
    refuted_by="one distribution with scores whose 0-1 regret is larger than the bound by more than rounding, or for "
    "some tau up to 1 no case that comes within 1% of it",
    thresholds={
        "violation": Threshold("largest excess of the 0-1 regret over the bound", below=1e-9),
        "tightness": Threshold("best ratio of the bound to what was found, worst over tau <= 1", above=0.99),
    },
    parts=(losses.comp_sum_loss, losses.comp_sum_bound),
    run=run,
    full="10,000,000 cases for each number of classes; a quarter of an hour",
)

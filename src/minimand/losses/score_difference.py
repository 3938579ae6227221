"""Losses of the score differences d_k = s_k - s_y: what every other class has over the labelled one.

Adding a constant to all scores of a sample changes none of them. Two families: the composition of a sum
(``comp_sum_loss``) and the worst weighted average (``ldr_loss``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand._checks import check_class_logits, check_no_nan
from minimand._numerics import upcast
from minimand.divergences import FDivergence
from minimand.hyper import HyperSpec, LogUniform, Uniform
from minimand.losses.loss import loss_function, module_of, narrowed, reduce, spec_of
from minimand.source import Source

COMP_SUM = Source(
    "Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
    "Mao, Mohri and Zhong",
    2023,
    "2304.07288",
    "section 2",
)
GCE = Source(
    "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
    "Zhang and Sabuncu",
    2018,
    "1805.07836",
    "section 3.2",
)
LDR = Source(
    "Label Distributionally Robust Losses for Multi-class Classification: Consistency, Robustness and Adaptivity",
    "Zhu, Ying and Yang",
    2021,
    "2112.14869",
    "LDR-KL",
)

NEVER = -1e30  # the log of a sum of nothing, finite so that its gradient is 0 and not NaN
SERIES_BELOW = 0.1  # where (e^x - 1) / x is summed as a series; ten terms reach float64 there
EXPONENT_CAP = 40.0  # the square of e^40 (Adam, gradient norms) still fits float32, with room for a batch
FLOAT16_EXPONENT_CAP = 11.0  # e^11 < 65504, float16's largest number
COLDEST = 1e-12  # a lower temperature changes a worst-case average by less than this times ln C


def score_differences(logits: Tensor, target: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """d_k = s_k - s_y + margin * 1[k != y], in ``logits``'s type.

    ``logits`` (N, C), ``target`` (N,) class indices; returns (N, C), 0 in the labelled column.

    >>> score_differences(torch.tensor([[1.0, 2.0, -0.5]]), torch.tensor([0]), margin=1.0)
    tensor([[ 0.0000,  2.0000, -0.5000]])
    """
    logits, target = check_class_logits(logits, target)
    if isinstance(margin, Tensor):
        margin = margin.to(logits)
    return _differences(logits, target) + margin * (~_labelled(logits, target)).to(logits.dtype)


def _differences(logits: Tensor, target: Tensor) -> Tensor:
    """d_k = s_k - s_y."""
    return logits - logits.gather(1, target[:, None])


def _labelled(logits: Tensor, target: Tensor) -> Tensor:
    """(N, C), true in the labelled column."""
    return torch.arange(logits.shape[1], device=logits.device) == target[:, None]


def others_log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """u = ln sum_{k != y} e^{d_k}: the softmax gives the label sigmoid(-u) and the others together sigmoid(u).

    Neither probability is got as one minus the other, so both keep their digits. With one class u is -1e30.
    """
    others = _differences(logits, target).masked_fill(_labelled(logits, target), NEVER)
    top = others.detach().amax(1, keepdim=True)
    # not logsumexp: its gradient e^(d - u) has the rounding error of u, 1e-3 for float32 logits of 1e4
    return top.squeeze(1) + (others - top).exp().sum(1).log()


@loss_function(COMP_SUM, target="class", tau=HyperSpec(1.0, low=0.0, closed="left", search=Uniform(0.5, 2.0)))
def comp_sum_loss(logits: Tensor, target: Tensor, tau: float | Tensor = 1.0, *, reduction: str = "mean") -> Tensor:
    """The comp-sum losses: from sum-exponential through cross-entropy to mean absolute error.

    l_tau = Phi_tau(sum_{k != y} e^{s_k - s_y}),  Phi_tau(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau),  ln(1 + u) at 1
          = (1 - p_y^(tau - 1)) / (tau - 1),      p the softmax of the scores; in nats at tau = 1.

    ========= ====================================================================================
    tau       the loss
    ========= ====================================================================================
    0         sum-exponential, sum_{k != y} e^{s_k - s_y}
    1         cross-entropy
    1 + q     generalised cross-entropy, (1 - p_y^q) / q (``generalised_cross_entropy_loss``)
    2         mean absolute error, 1 - p_y: bounded, hence robust; a bad start gets almost no gradient
    ========= ====================================================================================

    Args:
        logits: (N, C) scores.
        target: (N,) class indices.
        tau: a number or 0-d tensor in [0, inf); differentiable, and accurate near 1.
        reduction: "none" gives (N,), "mean" and "sum" a scalar.

    Below tau = 1 the loss is exponential in the scores. Where (1 - tau) * cross-entropy passes 40 (11 for float16
    logits) it goes on along its tangent, so value and gradient stay finite and the gradient keeps its direction.

    Raises:
        ValueError, TypeError: for shapes, types, labels or a tau that do not fit.

    Source: Mao, Mohri and Zhong (2023), arXiv:2304.07288, section 2.

    >>> logits, target = torch.tensor([[1.0, 2.0, -0.5, 0.3]]), torch.tensor([1])
    >>> comp_sum_loss(logits, target, tau=2.0) + logits.softmax(1)[0, 1]
    tensor(1.)
    """
    logits, target = check_class_logits(logits, target)
    scores = upcast(logits)
    tau = spec_of(comp_sum_loss).hyper("tau", tau, like=scores)
    return narrowed(reduce(composed_sum(scores, target, 1 - tau, exponent_cap(logits)), reduction), logits.dtype)


@loss_function(GCE, target="class", q=HyperSpec(0.7, low=0.0, high=1.0, search=Uniform(0.1, 1.0)))
def generalised_cross_entropy_loss(
    logits: Tensor, target: Tensor, q: float | Tensor = 0.7, *, reduction: str = "mean"
) -> Tensor:
    """Generalised cross-entropy, (1 - p_y^q) / q: ``comp_sum_loss`` at tau = 1 + q.

    ``q`` in [0, 1] runs from cross-entropy to mean absolute error; shapes and errors are those of
    ``comp_sum_loss``. The 0.7 is the authors' default under label noise.

    Source: Zhang and Sabuncu (2018), arXiv:1805.07836, section 3.2.

    >>> generalised_cross_entropy_loss(torch.zeros(1, 4), torch.tensor([0]), q=0.5)  # (1 - 0.25 ** 0.5) / 0.5
    tensor(1.)
    """
    logits, target = check_class_logits(logits, target)
    scores = upcast(logits)
    q = spec_of(generalised_cross_entropy_loss).hyper("q", q, like=scores)
    return narrowed(reduce(composed_sum(scores, target, -q, exponent_cap(logits)), reduction), logits.dtype)


def exponent_cap(logits: Tensor) -> float:
    """The largest exponent whose exponential, and its gradient, the logits' type can hold."""
    return FLOAT16_EXPONENT_CAP if logits.dtype == torch.float16 else EXPONENT_CAP


def composed_sum(scores: Tensor, target: Tensor, rate: Tensor, cap: float) -> Tensor:
    """(N,) (e^(rate * a) - 1) / rate of the cross-entropies a, a itself at rate 0, the tangent past rate * a = ``cap``.

    Both branches of the last line get arguments at which value and gradient are finite.
    """
    amount = -F.logsigmoid(-others_log_odds(scores, target))
    exponent = rate * amount
    near = exponent.abs() < SERIES_BELOW
    small = torch.where(near, exponent, 0)
    series = torch.ones_like(small)
    for n in range(11, 1, -1):
        series = 1 + small / n * series
    large = torch.where(near, 0, exponent)
    capped = large.clamp(max=cap)
    grown = capped.expm1() + capped.exp() * (large - capped)
    return torch.where(near, amount * series, grown / torch.where(near, 1, rate))


@loss_function(
    LDR,
    target="class",
    lam=HyperSpec(1.0, low=0.0, closed="left", search=LogUniform(0.1, 30.0)),
    margin=HyperSpec(0.0, low=0.0, closed="left"),
)
def ldr_loss(
    logits: Tensor,
    target: Tensor,
    lam: float | Tensor = 1.0,
    margin: float | Tensor = 0.0,
    divergence: FDivergence | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Label-distributionally-robust loss: the worst average of the score differences over weights near uniform.

    psi_lam = max_p sum_k p_k d_k - lam * D(p || u),   d_k = s_k - s_y + margin * 1[k != y],  u uniform, k = y included
            = lam * ln mean_k e^{d_k / lam}            for D = KL, the default.

    lam = 0 is the Crammer-Singer maximum max_k d_k; lam = 1 without margin is cross-entropy - ln C; lam -> inf is
    mean_k d_k, symmetric in the labels and so robust to uniform label noise. The loss may be negative.

    Args:
        logits: (N, C) scores.
        target: (N,) class indices.
        lam: a number or 0-d tensor in [0, inf); for KL both limits are exact, for another divergence 0 is 1e-12.
        margin: a number or 0-d tensor in [0, inf), what a score must win by.
        divergence: any ``FDivergence`` D in place of KL, through its ``regularised_expectation``;
            ``cvar(k / C)`` gives the top-k hinge.
        reduction: "none" gives (N,), "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, labels or hypers that do not fit.

    Source: Zhu, Ying and Yang (2021), arXiv:2112.14869, LDR-KL. The authors' code also divides the (softplus of the)
    scores by their mean size first: pass ``normalise_logits(F.softplus(logits))`` for that.

    >>> logits, target = torch.tensor([[1.0, 2.0, -0.5, 0.3]]), torch.tensor([0])
    >>> ldr_loss(logits, target, lam=0.0), ldr_loss(logits, target, lam=1e8)  # differences 0, 1, -1.5, -0.7
    (tensor(1.), tensor(-0.3000))
    """
    logits, target = check_class_logits(logits, target)
    scores, spec = upcast(logits), spec_of(ldr_loss)
    lam, margin = spec.hyper("lam", lam, like=scores), spec.hyper("margin", margin, like=scores)
    difference = score_differences(scores, target, margin)
    if divergence is None:
        worst = tempered_maximum(difference, lam)
    elif isinstance(divergence, FDivergence):
        check_no_nan("logits", logits)
        worst = divergence.regularised_expectation(difference, lam.clamp(min=COLDEST)).value
    else:
        raise TypeError(f"divergence must be an FDivergence or None (KL); got {type(divergence).__name__}")
    return narrowed(reduce(worst, reduction), logits.dtype)


def tempered_maximum(values: Tensor, temperature: Tensor) -> Tensor:
    """t * ln mean_k e^{x_k / t} over the last dimension: the maximum at t = 0, the mean as t -> inf.

    ``temperature`` has the leading shape of ``values``, or is 0-d.
    """
    top = values.detach().amax(-1, keepdim=True)  # any shift gives the same value and gradient
    cold = temperature <= COLDEST
    warm = torch.where(cold, 1, temperature)
    scaled = (values - top) / warm[..., None]
    # ln(1 + rise) keeps its digits as t -> inf, ln mean e^x where the weights are far from uniform
    rise = scaled.expm1().mean(-1)
    flat = rise > -0.5
    log_mean = torch.where(flat, torch.where(flat, rise, 0).log1p(), scaled.exp().mean(-1).log())
    ties = (values.detach() == top).to(values.dtype).mean(-1)
    return torch.where(cold, values.amax(-1) + temperature * ties.log(), top.squeeze(-1) + warm * log_mean)


CompSumLoss = module_of(comp_sum_loss, "CompSumLoss")
GeneralisedCrossEntropyLoss = module_of(generalised_cross_entropy_loss, "GeneralisedCrossEntropyLoss")
LDRLoss = module_of(ldr_loss, "LDRLoss")

"""Losses where only the mean response of each bag of instances is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand._checks import (
    check_choice,
    check_count,
    check_floating,
    check_range,
    check_same_device,
    check_tensor,
    is_concrete,
)
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, Uniform
from minimand.losses.loss import loss_function, module_of, narrowed, spec_of
from minimand.source import Source, from_paper

AGGREGATE = Source(
    "Learning from Aggregate responses: Instance Level versus Bag Level Loss Functions",
    "Javanmard et al.",
    2024,
    "2401.11081",
)
POSITIVE = HyperSpec(1.0, low=0.0, closed="neither")
ELEMENTWISE = Callable[[Tensor, Tensor], Tensor]


@loss_function(AGGREGATE, target="embeddings", rho=HyperSpec(0.5, low=0.0, high=1.0, search=Uniform(0.0, 1.0)))
def aggregate_loss(
    pred: Tensor,
    bag_ids: Tensor,
    bag_targets: Tensor,
    rho: float | Tensor = 0.5,
    loss: Literal["squared", "bce"] | ELEMENTWISE = "squared",
) -> Tensor:
    """(1 - rho) L_bag + rho L_ins: fit the bags' means, and each instance to the mean of its bag.

    L_bag = mean over bags a of l(y_a, mean of f over a),  L_ins = mean over instances i of l(y_a(i), f_i).

    For squared error and bags of one size L_ins = L_bag + mean_a Var_a(f): the instance loss is the bag loss with the
    variation inside bags penalised, so rho trades variance for bias. Bags count alike in L_bag whatever their size,
    instances in L_ins; a bag without instances counts nothing. Bags are best drawn at random after the data are split.

    Args:
        pred: (n,) predictions; logits for "bce".
        bag_ids: (n,) integers in [0, m), the bag of each instance.
        bag_targets: (m,) mean responses, not sums; in [0, 1] for "bce".
        rho: a number or 0-d tensor in [0, 1].
        loss: "squared", (f - y)^2; "bce", cross-entropy with the mean of the probabilities, not of the logits; or a
            function ``(pred, target) -> losses``, elementwise, of means of ``pred`` in L_bag.

    Returns:
        A scalar in pred's type; 0 for no instances.

    Raises:
        ValueError, TypeError: for shapes, types, devices, bags or numbers that do not fit.

    Source: Javanmard et al. (2024), arXiv:2401.11081.

    >>> pred, bags, means = torch.tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1]), torch.tensor([2.0, 4.0])
    >>> [float(aggregate_loss(pred, bags, means, rho)) for rho in (0.0, 1.0)]  # variances 1 and 0, on average 1/2
    [0.5, 1.0]
    """
    pred, bag_ids, bag_targets = _checked_bags(pred, bag_ids, bag_targets)
    scores, target = upcast(pred), bag_targets.to(upcast(pred).dtype)
    rho = spec_of(aggregate_loss).hyper("rho", rho, like=scores)
    own = target[bag_ids]
    if callable(loss):
        bag, instance = loss(_bag_means(scores, bag_ids, target), target), loss(scores, own)
    else:
        check_choice("loss", loss, ("squared", "bce"))
        if loss == "squared":
            bag, instance = (_bag_means(scores, bag_ids, target) - target).square(), (scores - own).square()
        else:
            check_range("bag_targets", target, 0, 1)
            bag = _cross_entropy_of_means(scores, bag_ids, target)
            instance = F.binary_cross_entropy_with_logits(scores, own, reduction="none")
    present = _sizes(bag_ids, target) > 0
    over_bags = torch.where(present, bag, 0).sum() / present.sum().clamp(min=1)
    over_instances = instance.sum() / max(len(scores), 1)
    return narrowed((1 - rho) * over_bags + rho * over_instances, pred.dtype)


@from_paper(AGGREGATE)
def aggregate_risk(rho: Tensor, delta: float, bag_size: int, noise: float = 1.0, norm: float = 1.0) -> Tensor:
    """The limit of E|theta_hat - theta|^2 in linear regression on ``aggregate_loss``: which rho is best for which bags.

    Rows are Gaussian with unit covariance, n of them in random bags of size k, d features, |theta| = ``norm``, noise of
    deviation ``noise`` in each response; n, d -> inf with d / n = delta. With pi = 1 - 1/k and lam > 0 the root of
    lam / (k (1 + lam)) + pi rho lam / (1 + rho lam) = delta:

    e = -norm beta / (alpha + beta),  alpha = 1 / (k (1 + lam)),  beta = pi rho / (1 + rho lam)
    w^2 = (A (noise^2 + e^2) + B (norm + e)^2) / (delta / lam^2 - A - B),  A = k alpha^2,  B = beta^2 / pi

    and the risk is e^2 + w^2, of bias and variance. At rho = 0, least squares on bags, it is
    noise^2 delta k / (1 - delta k), infinite where there are fewer bags than features (exactly, with m bags,
    noise^2 d / (m - d - 1)); at rho = 1, with s = delta / (1 - delta), norm^2 pi (pi + s / k) + noise^2 s / k.

    Args:
        rho: any shape, in [0, 1]; differentiable.
        delta: d / n, in (0, 1).
        bag_size: k, at least 1.
        noise, norm: in (0, inf).

    Returns:
        rho's shape and type.

    Raises:
        ValueError, TypeError: for numbers outside these ranges.

    Source: Javanmard et al. (2024), arXiv:2401.11081, on the risk of the interpolating estimator; derived here from
    the Gaussian comparison's saddle point, solved in closed form, and checked by simulation.

    >>> aggregate_risk(torch.tensor([0.0, 0.1, 1.0]), delta=0.05, bag_size=4)  # an interior rho is best
    tensor([0.2500, 0.2018, 0.5855])
    """
    rho = check_floating("rho", rho)
    check_range("rho", rho, 0, 1)
    HyperSpec(0.5, low=0.0, high=1.0, closed="neither").check("delta", delta)
    POSITIVE.check("noise", noise)
    POSITIVE.check("norm", norm)
    check_count("bag_size", bag_size)
    weight, kept, lost = upcast(rho), 1 / bag_size, 1 - 1 / bag_size
    slope = kept + lost * weight - delta * (1 + weight)
    root = (slope.square() + 4 * weight * (1 - delta) * delta).sqrt()
    solved = ~(slope + root <= 0)  # of NaN too, which then stays
    lam = 2 * delta / torch.where(solved, slope + root, 1)
    alpha, beta = kept / (1 + lam), lost * weight / (1 + weight * lam)
    error = -norm * beta / (alpha + beta)
    a, b = alpha.square() / kept, lost * (weight / (1 + weight * lam)).square()
    variance = (a * (noise**2 + error.square()) + b * (norm + error).square()) / (delta / lam.square() - a - b)
    return narrowed(torch.where(solved, error.square() + variance, torch.inf), rho.dtype)


@from_paper(AGGREGATE)
def private_bag_means(
    response: Tensor,
    bag_ids: Tensor,
    num_bags: int,
    clip: float,
    epsilon: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Means of responses over bags that keep each response private: clipped, and with Laplace noise.

    mean of clamp(y, -C, C) over the k instances of a bag + Laplace(2 C / (k epsilon)): one response moves its bag's
    mean by at most 2 C / k, so the means are epsilon-differentially private in the responses (not in the features).
    A regression sees the noise variance grow by 8 C^2 / (k epsilon^2). Bags must be chosen without the responses.
    Floating-point Laplace noise leaks in its low digits: this serves experiments, not the release of data.

    Args:
        response: (n,).
        bag_ids: (n,) integers in [0, num_bags); every bag has an instance.
        num_bags: m.
        clip: C, in (0, inf).
        epsilon: the privacy lost, in (0, inf).
        generator: where the noise comes from.

    Returns:
        (m,) in response's type.

    Raises:
        ValueError, TypeError: for shapes, types, devices, bags or numbers that do not fit.

    Source: Javanmard et al. (2024), arXiv:2401.11081, its private mechanism; the scale of the noise is derived here,
    and whether the paper's constant is the same could not be confirmed.

    >>> private_bag_means(torch.tensor([1.0, 9.0]), torch.tensor([0, 0]), num_bags=1, clip=3.0, epsilon=1e9)
    tensor([2.])
    """
    POSITIVE.check("clip", clip)
    POSITIVE.check("epsilon", epsilon)
    response = check_floating("response", response, ndim=1)
    like = upcast(response).new_zeros(num_bags)
    response, bag_ids, _ = _checked_bags(response, bag_ids, like, pred="response")
    sizes = _sizes(bag_ids, like)
    if is_concrete(sizes) and bool((sizes == 0).any()):
        lacking = int((sizes == 0).nonzero()[0])
        raise ValueError(f"bag_ids must name every bag in [0, {num_bags}); got none of bag {lacking}")
    means = _bag_means(upcast(response).clamp(-clip, clip), bag_ids, like)
    even = torch.rand(num_bags, generator=generator, dtype=torch.float64, device=response.device) - 0.5
    noise = -even.sign() * torch.log1p(-2 * even.abs())
    return narrowed(means + (2 * clip / (sizes.clamp(min=1) * epsilon) * noise).to(means.dtype), response.dtype)


def _checked_bags(
    value: Tensor, bag_ids: Tensor, bag_targets: Tensor, pred: str = "pred"
) -> tuple[Tensor, Tensor, Tensor]:
    value = check_floating(pred, value, ndim=1)
    bag_targets = check_floating("bag_targets", bag_targets, ndim=1)
    bag_ids = check_tensor("bag_ids", bag_ids, "an integer tensor")
    if bag_ids.is_floating_point() or bag_ids.is_complex() or bag_ids.dtype == torch.bool:
        raise TypeError(f"bag_ids must be an integer tensor; got dtype {bag_ids.dtype}")
    if bag_ids.shape != value.shape:
        raise ValueError(f"bag_ids must have shape ({len(value)},) to match {pred}; got {tuple(bag_ids.shape)}")
    check_same_device(**{pred: value, "bag_ids": bag_ids, "bag_targets": bag_targets})
    if is_concrete(bag_ids) and bag_ids.numel():
        outside = (bag_ids < 0) | (bag_ids >= len(bag_targets))
        if bool(outside.any()):
            where = int(outside.nonzero()[0])
            raise ValueError(
                f"bag_ids must lie in [0, {len(bag_targets)}); got {int(bag_ids[where])} at position {where}"
            )
    return value, bag_ids.long(), bag_targets


def _sizes(bag_ids: Tensor, like: Tensor) -> Tensor:
    """(m,) how many instances each bag has."""
    return torch.zeros_like(like).scatter_add(0, bag_ids, torch.ones_like(bag_ids, dtype=like.dtype))


def _bag_means(value: Tensor, bag_ids: Tensor, like: Tensor) -> Tensor:
    """(m,) the mean over each bag, 0 for one without instances."""
    return torch.zeros_like(like).scatter_add(0, bag_ids, value) / _sizes(bag_ids, like).clamp(min=1)


def _cross_entropy_of_means(logits: Tensor, bag_ids: Tensor, target: Tensor) -> Tensor:
    """(m,) -y ln p - (1 - y) ln(1 - p), p the mean of the bag's probabilities, through logarithms of sums."""
    sizes = _sizes(bag_ids, target).clamp(min=1)

    def log_mean(log_value: Tensor) -> Tensor:
        lowest = torch.full_like(target, torch.finfo(target.dtype).min / 4)
        top = lowest.scatter_reduce(0, bag_ids, log_value.detach(), "amax")
        total = torch.zeros_like(target).scatter_add(0, bag_ids, (log_value - top[bag_ids]).exp())
        return torch.where(total > 0, torch.where(total > 0, total, 1).log() + top, 0) - sizes.log()

    return -target * log_mean(F.logsigmoid(logits)) - (1 - target) * log_mean(F.logsigmoid(-logits))


AggregateLoss = module_of(aggregate_loss, "AggregateLoss")

"""Largest eigenvalues of noisy curvature, and the learning rates that follow from a batch's size.

The Hessian of a batch is that of all samples plus noise, and noise makes the largest eigenvalue larger: what is stable
on all samples need not be stable on a batch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating, check_same_device
from minimand._numerics import downcast, upcast
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

SPIKES = Source(
    "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
    "Granziol et al.",
    2020,
    "2006.09092",
    "batch Hessian",
)
NOISE = HyperSpec(0.0, low=0.0)
RATIO = HyperSpec(1.0, low=0.0, closed="neither")
SIZE = HyperSpec(1.0, low=0.0, closed="neither")
RULES = {"linear": 1.0, "sqrt": 0.5}  # the power of the ratio of batch sizes


@from_paper(SPIKES)
def effective_batch(batch: int, total: int) -> float:
    """b with 1/b = 1/B - 1/N: the size of independent draws with the noise of B rows out of N, none drawn twice.

    Args:
        batch: B, in [1, N].
        total: N, the number of samples.

    Returns:
        b, at least B; infinite where the batch is all samples and has no noise.

    Source: Granziol et al. (2020), arXiv:2006.09092. With the unbiased variance over the N samples it is exact.

    >>> effective_batch(100, 300), effective_batch(300, 300)
    (150.0, inf)
    """
    check_count("total", total)
    check_count("batch", batch, most=total)
    return batch * total / (total - batch) if batch < total else math.inf


@from_paper(SPIKES)
def spiked_top_eigenvalue(top: Tensor, noise: float | Tensor) -> Tensor:
    """The largest eigenvalue of a batch's Hessian: l + t^2 / l where l > t, and 2 t, the edge of the noise, elsewhere.

    The batch's Hessian is taken for that of all samples plus a symmetric matrix of independent entries. The largest
    stable rate of gradient descent is 2 over the answer.

    Args:
        top: l, any shape: the largest eigenvalue of the Hessian on all samples.
        noise: t >= 0, a number or a tensor that broadcasts with ``top``, in its unit: sqrt(P s2 / b) for P parameters,
            entries of variance s2 a sample and b the ``effective_batch``. Equally the root mean square of
            |(H_batch - H) v| over batches and random v of length 1, which takes Hessian-vector products alone.

    Returns:
        The shape of both together.

    Raises:
        TypeError, ValueError: for tensors that do not fit, and a negative ``noise``.

    Source: Granziol et al. (2020), arXiv:2006.09092, batch Hessian. Noise of real networks is neither independent nor
    alike from entry to entry; what that does to the prediction is measured in the paper's claim.

    >>> spiked_top_eigenvalue(torch.tensor([2.0, 0.5]), noise=1.0)  # 2 + 1/2; 2
    tensor([2.5000, 2.0000])
    """
    check_floating("top", top)
    full, t = upcast(top), _noise_like(top, "noise", noise, NOISE)
    inside = full <= t  # NaN is not, and shows
    above = full + t * (t / torch.where(inside, 1, full))
    return downcast(torch.where(inside, 2 * t, above), top.dtype)


@from_paper(replace(SPIKES, where="batch Gauss-Newton matrix"))
def bbp_top_eigenvalue(top: Tensor, ratio: float | Tensor, bulk: float | Tensor = 1.0) -> Tensor:
    """The largest eigenvalue of a sample covariance: l (1 + q s2 / (l - s2)) where l > s2 (1 + sqrt q), else its edge.

    The edge is s2 (1 + sqrt q)^2. Gauss-Newton matrices are such covariances, of the outputs' gradients.

    Args:
        top: l, any shape: the largest eigenvalue of the covariance itself, of which a sample has more.
        ratio: q = P / B > 0, parameters over samples; a number or a tensor that broadcasts with ``top``.
        bulk: s2 >= 0, all other eigenvalues of the covariance, in the unit of ``top``.

    Returns:
        The shape of all together.

    Raises:
        TypeError, ValueError: for tensors that do not fit, and numbers out of range.

    Source: Granziol et al. (2020), arXiv:2006.09092, after Baik, Ben Arous and Peche (2005) and Baik and Silverstein
    (2006), whose parameters these are; those of the paper's own theorem could not be compared.

    >>> bbp_top_eigenvalue(torch.tensor([5.0, 1.2]), ratio=2.0)  # 5 (1 + 2/4); (1 + sqrt 2)^2
    tensor([7.5000, 5.8284])
    """
    check_floating("top", top)
    spike, q = upcast(top), _noise_like(top, "ratio", ratio, RATIO)
    s2 = _noise_like(top, "bulk", bulk, NOISE)
    edge = 1 + q.sqrt()
    inside = spike <= s2 * edge
    above = spike * (1 + q * s2 / torch.where(inside, 1, spike - s2))
    return downcast(torch.where(inside, s2 * edge.square(), above), top.dtype)


@from_paper(replace(SPIKES, where="scaling rules"))
def scale_lr(lr: float, batch: float, new_batch: float, rule: Literal["linear", "sqrt"] = "linear") -> float:
    """The learning rate for another batch size: lr B'/B for SGD ("linear"), lr sqrt(B'/B) for Adam's kin ("sqrt").

    Both hold while noise decides what is stable; past that the largest stable rate is 2 over the largest eigenvalue on
    all samples, whatever the batch. Near the whole data set give ``effective_batch``es.

    Args:
        lr: at least 0, a good rate at ``batch``.
        batch, new_batch: above 0, samples a step.
        rule: ``"linear"`` or ``"sqrt"``.

    Source: Granziol et al. (2020), arXiv:2006.09092, scaling rules.

    >>> scale_lr(0.1, 32, 128), scale_lr(1e-3, 32, 128, rule="sqrt")
    (0.4, 0.002)
    """
    NOISE.check("lr", lr)
    SIZE.check("batch", batch)
    SIZE.check("new_batch", new_batch)
    check_choice("rule", rule, RULES)
    return lr * (new_batch / batch) ** RULES[rule]


@from_paper(replace(SPIKES, where="learning rate and momentum from the spectrum"))
def heavy_ball_from_spectrum(largest: float | Tensor, smallest: float | Tensor) -> tuple[float, float]:
    """The learning rate and momentum that are best on a quadratic with eigenvalues in [smallest, largest].

    lr = 4 / (sqrt L + sqrt mu)^2,  momentum = ((sqrt L - sqrt mu) / (sqrt L + sqrt mu))^2

    Distances then shrink by sqrt(momentum) a step in the long run. They are those of ``torch.optim.SGD``.

    Args:
        largest: L > 0, such as the largest eigenvalue of a batch's Hessian; a number or a 0-d tensor.
        smallest: mu in (0, L], the least that matters.

    Returns:
        (lr, momentum), numbers.

    Source: Polyak (1964), Some methods of speeding up the convergence of iteration methods. Granziol et al. (2020),
    arXiv:2006.09092, learn rate and momentum from the ends of a Lanczos spectrum; how they choose the small end could
    not be confirmed and is left to the caller.

    >>> heavy_ball_from_spectrum(largest=9.0, smallest=1.0)  # 4 / (3 + 1)^2, (2 / 4)^2
    (0.25, 0.25)
    """
    SIZE.check("largest", largest)
    HyperSpec(1.0, low=0.0, high=float(largest), closed="right").check("smallest", smallest)
    high, low = math.sqrt(largest), math.sqrt(smallest)
    return 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2


def _noise_like(top: Tensor, name: str, value: float | Tensor, spec: HyperSpec) -> Tensor:
    """A number, or a tensor that broadcasts with ``top``, checked and in the type that ``top`` is computed in."""
    wide = upcast(top)
    if not isinstance(value, Tensor):
        spec.check(name, value)
        return torch.full((), float(value), dtype=wide.dtype, device=wide.device)
    spec.check(name, check_floating(name, value))
    check_same_device(top=top, **{name: value})
    try:
        torch.broadcast_tensors(top, value)  # broadcast_shapes would load SymPy
    except RuntimeError as error:
        raise ValueError(
            f"{name} must broadcast with top's shape {tuple(top.shape)}; got {tuple(value.shape)}"
        ) from error
    return value.to(wide.dtype)

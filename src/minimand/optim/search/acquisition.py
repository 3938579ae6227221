"""Acquisition functions: what evaluating a point next is worth. All maximise."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from minimand._checks import check_count, check_floating, check_range, check_same_device
from minimand._numerics import downcast, widest
from minimand.source import Source, from_paper

TUTORIAL = Source("A Tutorial on Bayesian Optimization", "Frazier", 2018, "1807.02811", "section 4")

LOG_DENSITY = -math.log(2 * math.pi) / 2  # of the standard normal, at 0
NEAR, FAR = -1.0, -40.0  # where ln h changes its form: its terms cancel left of the first, lose digits to the second
LARGEST = torch.finfo(torch.float64).max


@from_paper(TUTORIAL)
def expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """How far a normal value is expected to lie above the best so far: E max(f - best, 0), f ~ N(mean, deviation^2).

    EI = D Phi(z) + deviation phi(z) = deviation h(z),  D = mean - best,  z = D / deviation,  h(z) = phi(z) + z Phi(z).

    Under noise the largest observation is no incumbent: take the largest posterior mean, or
    ``noisy_expected_improvement``.

    Args:
        mean: (...), the posterior means at the candidates.
        deviation: their standard deviations, at least 0; broadcasts with the others. 0 gives max(D, 0).
        best: the best value so far.

    Returns:
        (...) in the mean's type and the values' units.

    Raises:
        ValueError, TypeError: for types, devices or ranges that do not fit.

    Source: Frazier (2018), arXiv:1807.02811, section 4.1, equation 8.

    >>> expected_improvement(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0))  # 1 / sqrt(2 pi)
    tensor(0.3989)
    """
    gain, sure, scale = _standardised(mean, deviation, best)
    certain = torch.where(sure, gain, 0).clamp(min=0)
    return downcast(torch.where(sure, certain, scale * _h(gain / scale)), mean.dtype)


@from_paper(TUTORIAL)
def log_expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """ln of ``expected_improvement``, and its gradient, where that itself is 0 to every digit.

    ln EI = ln deviation + ln h(z); for z < -1 with h(z) = phi(z) (1 - sqrt(pi/2) |z| erfcx(|z| / sqrt(2))), and past
    z = -40 with the asymptotic series phi(z) / z^2 (1 - 3/z^2 + 15/z^4 - ...).

    Args:
        mean, deviation, best: as for ``expected_improvement``. -inf where the deviation is 0 and the mean no better.

    Returns:
        (...) in the mean's type, in nats.

    Raises:
        ValueError, TypeError: for types, devices or ranges that do not fit.

    Source: Frazier (2018), arXiv:1807.02811, section 4.1; the stable form is that of Ament et al. (2023),
    arXiv:2310.20708, equation 9.

    >>> log_expected_improvement(torch.tensor(-10.0), torch.tensor(1.0), torch.tensor(0.0))
    tensor(-55.5531)
    """
    gain, sure, scale = _standardised(mean, deviation, best)
    positive = sure & (gain > 0)
    certain = torch.where(positive, torch.where(positive, gain, 1).log(), -torch.inf)
    return downcast(torch.where(sure, certain, scale.log() + _log_h(gain / scale)), mean.dtype)


@from_paper(TUTORIAL)
def knowledge_gradient(mean: Tensor, slope: Tensor) -> Tensor:
    """How much an observation is expected to raise the largest posterior mean: E max_i (a_i + c_i Z) - max_i a_i.

    Z is standard normal. Exact: of the upper envelope of the lines a_i + c_i z, whose j-th kink lies at q_j,
    KG = sum_j (c_{j+1} - c_j) h(-|q_j|),  h(z) = phi(z) + z Phi(z). Every pair of lines is compared: n^2 numbers.

    Args:
        mean: a, (..., n), the posterior means of a finite set.
        slope: c, (..., n), how far one standard deviation of the observation moves each:
            ``GaussianProcess.look_ahead``.

    Returns:
        (...) in the mean's type and the values' units, at least 0.

    Raises:
        ValueError, TypeError: for shapes, types or devices that do not fit, an empty set.

    Source: Frazier (2018), arXiv:1807.02811, section 4.2; the envelope is that of Frazier, Powell and Dayanik (2009),
    algorithm 1.

    >>> knowledge_gradient(torch.zeros(2), torch.tensor([0.0, 1.0]))  # E max(0, Z) = 1 / sqrt(2 pi)
    tensor(0.3989)
    """
    mean, slope = check_floating("mean", mean), check_floating("slope", slope)
    if mean.ndim == 0 or mean.shape[-1] == 0:
        raise ValueError(f"mean must have shape (..., n) with n >= 1; got {tuple(mean.shape)}")
    if slope.shape[-1:] != mean.shape[-1:]:
        raise ValueError(f"slope must have shape (..., {mean.shape[-1]}); got {tuple(slope.shape)}")
    check_same_device(mean=mean, slope=slope)
    a, c = torch.broadcast_tensors(widest(mean), widest(slope))
    return downcast(_envelope_gain(a, c), mean.dtype)


@from_paper(TUTORIAL)
def noisy_expected_improvement(mean: Tensor, slope: Tensor, new_mean: Tensor, new_slope: Tensor) -> Tensor:
    """Expected improvement where observations are noisy: in the best posterior mean among evaluated points.

    E max(max_i (a_i + c_i Z), a + c Z) - max_i a_i over the evaluated points i and the new one, Z standard normal: the
    knowledge gradient restricted to them, less the best mean of an evaluated point today. Without noise all c_i are 0,
    and this is expected improvement.

    Args:
        mean: a_i, (..., n), the posterior means of the evaluated points.
        slope: c_i, (..., n), their slopes under an observation at the new point: ``GaussianProcess.look_ahead``.
        new_mean: a, (...), the posterior mean of the new point.
        new_slope: c, (...), its slope.

    Returns:
        (...) in the new mean's type and the values' units.

    Raises:
        ValueError, TypeError: for shapes, types or devices that do not fit, no evaluated points.

    Source: Frazier (2018), arXiv:1807.02811, section 5, equation 13, after Scott, Frazier and Powell (2011). It is not
    the "noisy expected improvement" of Letham et al. (2019), which averages over the noise of the past.

    >>> zero = torch.zeros(1)
    >>> noisy_expected_improvement(zero, zero, torch.tensor(0.0), torch.tensor(1.0))
    tensor(0.3989)
    """
    mean, slope = check_floating("mean", mean), check_floating("slope", slope)
    new_mean, new_slope = check_floating("new_mean", new_mean), check_floating("new_slope", new_slope)
    if mean.ndim == 0 or mean.shape[-1] == 0:
        raise ValueError(f"mean must have shape (..., n) with n >= 1; got {tuple(mean.shape)}")
    if slope.shape[-1:] != mean.shape[-1:]:
        raise ValueError(f"slope must have shape (..., {mean.shape[-1]}); got {tuple(slope.shape)}")
    check_same_device(mean=mean, slope=slope, new_mean=new_mean, new_slope=new_slope)
    known, moves = torch.broadcast_tensors(widest(mean), widest(slope))
    a, c = (widest(value)[..., None] for value in torch.broadcast_tensors(new_mean, new_slope))
    shape = torch.broadcast_shapes(known.shape[:-1], a.shape[:-1])
    a, c = (torch.cat([old.expand(*shape, -1), new.expand(*shape, -1)], -1) for old, new in ((known, a), (moves, c)))
    ahead = (a[..., -1] - known.amax(-1)).clamp(min=0)
    return downcast(_envelope_gain(a, c) + ahead, new_mean.dtype)


@from_paper(TUTORIAL)
def entropy_search(
    mean: Tensor, covariance: Tensor, noise: float | Tensor, draws: Tensor, observations: int = 9
) -> Tensor:
    """How much an observation is expected to tell about where the maximum is: H[p(x*)] - E_y H[p(x*|y)], in nats.

    p(x*) is estimated on a finite set from joint samples of the process, p(x*|y) from the same samples conditioned by
    Matheron's rule, f + cov(., x) (y - f(x) - e) / (var(x) + noise), with the same random numbers, e an error of the
    noise's size; y runs over Gauss-Hermite nodes. The frequencies of S samples are short of an entropy by about
    (outcomes - 1) / 2S, of which the difference keeps less.

    Args:
        mean: (n,), of a finite set.
        covariance: (n, n).
        noise: the variance of an observation's error, at least 0.
        draws: (S, n + 1) standard normal numbers: n for each sample of the process, the last for its error.
        observations: nodes of the expectation over y, at least 1.

    Returns:
        (n,) what an observation at each of the points tells, in the mean's type, without gradient.

    Raises:
        ValueError, TypeError: for shapes, types, devices or ranges that do not fit, an empty set, no draws.

    Source: Frazier (2018), arXiv:1807.02811, section 4.3, equation 11, after Hennig and Schuler (2012).

    >>> draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    >>> entropy_search(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0])), 0.0, draws)  # ln 2, and nothing
    tensor([0.69..., 0.0000])
    """
    mean, covariance = check_floating("mean", mean, ndim=1), check_floating("covariance", covariance, ndim=2)
    draws, count = check_floating("draws", draws, ndim=2), mean.shape[0]
    if count == 0:
        raise ValueError("mean must have shape (n,) with n >= 1; got (0,)")
    if covariance.shape != (count, count):
        raise ValueError(f"covariance must have shape ({count}, {count}); got {tuple(covariance.shape)}")
    if draws.shape[1] != count + 1 or len(draws) == 0:
        raise ValueError(f"draws must have shape (S, {count + 1}) with S >= 1; got {tuple(draws.shape)}")
    check_count("observations", observations)
    check_same_device(mean=mean, covariance=covariance, draws=draws)
    dtype = mean.dtype
    mean, covariance, draws = (widest(value).detach() for value in (mean, covariance, draws))
    noise = torch.as_tensor(noise, dtype=mean.dtype, device=mean.device)
    check_range("noise", noise, 0.0, LARGEST)
    size, axes = torch.linalg.eigh(covariance)  # as it may be singular
    sample = mean + draws[:, :-1] @ (axes * size.clamp(min=0).sqrt()).mT
    seen = sample + noise.sqrt() * draws[:, -1:]
    variance = covariance.diagonal() + noise
    nodes, weights = np.polynomial.hermite_e.hermegauss(observations)
    now, later = _entropy(sample), torch.zeros_like(mean)
    moves = covariance / torch.where(variance > 0, variance, 1)[:, None]  # row i: what an observation at i moves
    for node, weight in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True):
        surprise = mean + node * variance.clamp(min=0).sqrt() - seen
        given = sample + surprise.mT[..., None] * moves[:, None, :]  # (n observations, S, n)
        later = later + weight * _entropy(given)
    return downcast(now - later, dtype)


def _entropy(samples: Tensor) -> Tensor:
    """The entropy of which of the last dimension is largest, over the samples of the one before it."""
    where = torch.nn.functional.one_hot(samples.argmax(-1), samples.shape[-1])
    share = where.to(samples.dtype).mean(-2)
    return torch.special.entr(share).sum(-1)


def _standardised(mean: Tensor, deviation: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """mean - best, where the deviation is 0, and the deviation with 1 in its place; float64."""
    mean = check_floating("mean", mean)
    deviation, best = check_floating("deviation", deviation), check_floating("best", best)
    check_same_device(mean=mean, deviation=deviation, best=best)
    check_range("deviation", deviation, 0.0, LARGEST)
    gain, scale = torch.broadcast_tensors(widest(mean) - widest(best), widest(deviation))
    sure = scale == 0
    return gain, sure, torch.where(sure, 1, scale)


def _density(z: Tensor) -> Tensor:
    return (LOG_DENSITY - z.square() / 2).exp()


def _log_h(z: Tensor) -> Tensor:
    """ln(phi(z) + z Phi(z)), each form kept where it is exact so that none spoils another's gradient."""
    near = torch.where(z > NEAR, z, 0)
    size = torch.where((z <= NEAR) & (z > FAR), -z, 2)
    far = torch.where(z > FAR, FAR, z).square()  # NaN among them
    right = (_density(near) + near * torch.special.ndtr(near)).log()
    middle = torch.log1p(-math.sqrt(math.pi / 2) * size * torch.special.erfcx(size / math.sqrt(2))) - size.square() / 2
    inverse = 1 / far
    series = inverse * (-3 + inverse * (15 + inverse * (-105 + inverse * 945)))
    left = torch.log1p(series) - far.log() - far / 2
    return torch.where(z > NEAR, right, LOG_DENSITY + torch.where(z > FAR, middle, left))


def _h(z: Tensor) -> Tensor:
    """phi(z) + z Phi(z), to full relative precision."""
    return torch.where(z < NEAR, _log_h(z.clamp(max=NEAR)).exp(), _density(z) + z * torch.special.ndtr(z))


def _envelope_gain(a: Tensor, c: Tensor) -> Tensor:
    """E max_i (a_i + c_i Z) - max_i a_i over the last dimension."""
    rise = a[..., :, None] - a[..., None, :]  # [i, j]: by how much i is above j at 0
    turn = c[..., None, :] - c[..., :, None]  # [i, j]: by how much j is the steeper
    crossing = rise / torch.where(turn == 0, 1, turn)  # symmetric to the last bit: both lines see one kink
    upper = torch.where(turn > 0, crossing, torch.inf).amin(-1)
    lower = torch.where(turn < 0, crossing, -torch.inf).amax(-1)
    order = torch.arange(a.shape[-1], device=a.device)
    first = order[:, None] > order  # of parallel lines that are equal, the first stays
    beaten = ((turn == 0) & ((rise < 0) | ((rise == 0) & first))).any(-1)
    active = (lower < upper) & ~beaten
    steeper = torch.where((turn > 0) & active[..., None, :], c[..., None, :], torch.inf).amin(-1)
    kinked = active & steeper.isfinite() & upper.isfinite()
    bend = torch.where(kinked, steeper, c) - c
    gain = bend * _h(-torch.where(kinked, upper, 0).abs())
    lost = (a + c).isnan().any(-1)  # comparisons would hide it
    return torch.where(lost, torch.nan, gain.sum(-1))

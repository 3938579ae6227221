"""Gaussian processes, exact and small: what acquisition functions are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from minimand._checks import check_count, check_floating, check_no_nan
from minimand._numerics import downcast, upcast
from minimand.source import Source, from_paper

GAUSSIAN_PROCESSES = Source("A Tutorial on Bayesian Optimization", "Frazier", 2018, "1807.02811", "section 3")

MOST = 1000  # points; time grows with their cube and memory with their square
JITTER = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the kernel's scale, on the diagonal: K must stay definite
LENGTHSCALES = (0.05, 10.0)  # that a fit may find, in the units of the points: those of a cube of side 1
NOISES = (1e-6, 1.0)  # that a fit may find, over the variance of the values
SCALES = (0.05, 20.0)  # of the kernel, over the variance of the values
STEP = 0.1  # of a fit, in the logarithm of what it fits
Number = float | Tensor


@from_paper(GAUSSIAN_PROCESSES)
@dataclass(frozen=True)
class RBF:
    """The squared-exponential kernel: scale exp(-r^2 / 2), r^2 = sum_i (a_i - b_i)^2 / lengthscale_i^2.

    Args:
        lengthscale: one for all coordinates (a number), or (..., d), one each.
        scale: the variance of the process, a number or (...,).

    Source: Frazier (2018), arXiv:1807.02811, section 3.1.

    >>> RBF(0.5)(torch.zeros(1, 1), torch.tensor([[0.0], [0.5]]))  # 1 and e^-0.5
    tensor([[1.0000, 0.6065]])
    """

    lengthscale: Number = 1.0
    scale: Number = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The covariances (..., n, m) of points a (..., n, d) and b (..., m, d)."""
        squared = _squared_distance(a, b, self.lengthscale)
        return (_leading(self.scale, squared, 2) * (-squared / 2).exp()).to(a.dtype)


@from_paper(GAUSSIAN_PROCESSES)
@dataclass(frozen=True)
class Matern52:
    """The Matern kernel of smoothness 5/2: scale (1 + s + s^2 / 3) e^-s, s = sqrt(5) r, r as for :class:`RBF`.

    Its functions have two derivatives, where those of the squared exponential have all.

    Args:
        lengthscale: one for all coordinates (a number), or (..., d), one each.
        scale: the variance of the process, a number or (...,).

    Source: Frazier (2018), arXiv:1807.02811, section 3.1.

    >>> Matern52(5**0.5)(torch.zeros(1, 1), torch.tensor([[0.0], [1.0]]))  # 1 and (1 + 1 + 1/3) / e
    tensor([[1.0000, 0.8584]])
    """

    lengthscale: Number = 1.0
    scale: Number = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The covariances (..., n, m) of points a (..., n, d) and b (..., m, d)."""
        squared = 5 * _squared_distance(a, b, self.lengthscale)
        apart = squared > 0  # the root has no slope at 0, the kernel has slope 0
        s = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
        return (_leading(self.scale, squared, 2) * (1 + s + squared / 3) * (-s).exp()).to(a.dtype)


Kernel = RBF | Matern52


class Posterior(NamedTuple):
    """A joint normal distribution over m values: mean (..., m) and covariance (..., m, m)."""

    mean: Tensor
    covariance: Tensor

    @property
    def deviation(self) -> Tensor:
        """The standard deviation (..., m) of each value."""
        return _root(self.covariance.diagonal(dim1=-2, dim2=-1))


@from_paper(GAUSSIAN_PROCESSES)
@dataclass(frozen=True)
class GaussianProcess:
    """A distribution over functions, conditioned on what has been seen of one; exact.

    With K = k(X, X) + noise I at the points X with values y,

        mean(x) = m + k(x, X) K^-1 (y - m);  cov(x, x') = k(x, x') - k(x, X) K^-1 k(X, x').

    Leading dimensions of points, values and numbers are separate processes, computed together. For a few hundred
    points and at most 1000, as a reference for acquisition functions and for small searches; GPyTorch and BoTorch are
    for more. Compute in float64: 1e-5 of the kernel's scale is added to float32's diagonal, 1e-10 to float64's.

    Args:
        kernel: :class:`RBF` or :class:`Matern52`.
        noise: the variance of the values around the function, at least 0; a number or (...,).
        mean: m, the process's mean before anything is seen; a number or (...,).
        points: (..., n, d), what ``condition`` has seen.
        values: (..., n).

    Source: Frazier (2018), arXiv:1807.02811, section 3, equation 3.

    >>> process = GaussianProcess(RBF(1.0), noise=1.0).condition(torch.zeros(1, 1), torch.tensor([2.0]))
    >>> found = process.posterior(torch.zeros(1, 1))
    >>> found.mean, found.covariance  # halfway from 0 to 2, with half the variance
    (tensor([1.0000]), tensor([[0.5000]]))
    """

    kernel: Kernel
    noise: Number = 0.0
    mean: Number = 0.0
    points: Tensor | None = None
    values: Tensor | None = None

    def condition(self, points: Tensor, values: Tensor) -> GaussianProcess:
        """The process given also the values (..., n) at points (..., n, d).

        Raises:
            ValueError, TypeError: for shapes or types that do not fit, NaN, more than 1000 points in all.
        """
        points, values = upcast(check_floating("points", points)), upcast(check_floating("values", values))
        if points.ndim < 2:
            raise ValueError(f"points must have shape (..., n, d); got {tuple(points.shape)}")
        if values.shape != points.shape[:-1]:
            raise ValueError(f"values must have shape {tuple(points.shape[:-1])}; got {tuple(values.shape)}")
        check_no_nan("points", points)
        check_no_nan("values", values)
        if self.points is not None and self.values is not None:
            points, values = torch.cat([self.points, points], -2), torch.cat([self.values, values], -1)
        if points.shape[-2] > MOST:
            raise ValueError(f"points must be at most {MOST} in all; got {points.shape[-2]} (GPyTorch takes more)")
        return replace(self, points=points, values=values)

    def posterior(self, points: Tensor) -> Posterior:
        """The function's values at points (..., m, d); those of an observation there vary by ``noise`` more."""
        dtype = check_floating("points", points).dtype
        points = upcast(points)
        mean, half = self._seen_from(points)
        covariance = self.kernel(points, points) - half.mT @ half
        return Posterior(downcast(mean, dtype), downcast(covariance, dtype))

    def marginals(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (..., m) of the function's values, each alone: cheaper than ``posterior``."""
        dtype = check_floating("points", points).dtype
        points = upcast(points)
        mean, half = self._seen_from(points)
        variance = _leading(self.kernel.scale, points, 1) - half.square().sum(-2)
        return downcast(mean, dtype), downcast(_root(variance), dtype)

    def look_ahead(self, points: Tensor, at: Tensor) -> Tensor:
        """How the posterior mean at ``points`` (..., n, d) would move with one more observation, at ``at`` (..., m, d).

        Returns (..., m, n): cov(x_i, x) / sqrt(var(x) + noise), the mean's standard deviation and its sign. What
        ``knowledge_gradient`` calls slopes.
        """
        count = at.shape[-2]
        covariance = self.posterior(torch.cat([at, points], -2)).covariance[..., :count, :]
        variance = covariance[..., :count].diagonal(dim1=-2, dim2=-1).clamp(min=0) + _leading(self.noise, at, 1)
        known = variance <= 0  # an observation without noise where the function is known
        slope = covariance[..., count:] / torch.where(known, 1, variance).sqrt()[..., None]
        return torch.where(known[..., None], 0, slope)

    def log_marginal_likelihood(self) -> Tensor:
        """ln p(values | points), in nats: (...,). 0 where nothing has been seen."""
        if self.points is None or self.values is None:
            return torch.zeros(())
        factor = self._factor()
        white = torch.linalg.solve_triangular(factor, self._residual()[..., None], upper=False)[..., 0]
        log_size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -white.square().sum(-1) / 2 - log_size - self.values.shape[-1] * math.log(2 * math.pi) / 2

    def _seen_from(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (..., m) at ``points``, and H (..., n, m) with H^T H what is known of their covariance."""
        mean = _leading(self.mean, points, 1).expand(points.shape[:-1])
        if self.points is None or self.values is None or self.points.shape[-2] == 0:
            return mean, points.new_zeros(*points.shape[:-2], 0, points.shape[-2])
        factor = self._factor()
        half = torch.linalg.solve_triangular(factor, self.kernel(self.points, points), upper=False)
        residual = torch.linalg.solve_triangular(factor, self._residual()[..., None], upper=False)
        return mean + (half.mT @ residual)[..., 0], half

    def _factor(self) -> Tensor:
        assert self.points is not None
        covariance = self.kernel(self.points, self.points)
        jitter = JITTER.get(covariance.dtype, 1e-2) * covariance.detach().diagonal(dim1=-2, dim2=-1).amax(-1, True)
        added = (_leading(self.noise, self.points, 1) + jitter).expand(covariance.shape[:-1])
        factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag_embed(added))
        return torch.where(failed[..., None, None] > 0, torch.nan, factor)

    def _residual(self) -> Tensor:
        assert self.points is not None
        assert self.values is not None
        return self.values - _leading(self.mean, self.points, 1)


@from_paper(GAUSSIAN_PROCESSES)
def fit_gaussian_process(
    points: Tensor, values: Tensor, kernel: type[Kernel] = Matern52, steps: int = 100, noiseless: bool = False
) -> GaussianProcess:
    """A process whose lengthscales, scale and noise make the values likeliest, conditioned on them.

    The mean is that of the values. Lengthscales, one a coordinate, are held in [0.05, 10], the noise in [1e-6, 1] and
    the kernel's scale in [0.05, 20] times the variance of the values: of a few points the likeliest process may be
    none. Adam climbs from (0.5, 0.01, 1): each process of the leading dimensions goes its own way, as if it were alone.

    Args:
        points: (..., n, d), in a cube of side 1 or so.
        values: (..., n).
        kernel: :class:`Matern52` or :class:`RBF`.
        steps: of the climb, at least 0; each factors the covariance once.
        noiseless: hold the noise at its least.

    Returns:
        a :class:`GaussianProcess` in the points' type, without gradient.

    Raises:
        ValueError, TypeError: for shapes or types that do not fit, NaN, more than 1000 points, no points.

    Source: Frazier (2018), arXiv:1807.02811, section 3.2: maximum likelihood.

    >>> x = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    >>> process = fit_gaussian_process(x, (6 * x[:, 0]).sin(), RBF)
    >>> process.posterior(torch.tensor([[0.4]], dtype=torch.float64)).mean  # sin 2.4
    tensor([0.675...], dtype=torch.float64)
    """
    points, values = check_floating("points", points).detach(), check_floating("values", values).detach()
    check_count("steps", steps, least=0)
    if values.shape[-1:] == (0,):
        raise ValueError("values must be at least one; got none")
    center = values.mean(-1)
    variance = values.var(-1, correction=0)
    variance = torch.where(variance > 0, variance, 1)
    shape = points.shape[:-2]
    whole = {
        "lengthscale": (0.5, LENGTHSCALES, (*shape, points.shape[-1])),
        "noise": (NOISES[0] if noiseless else 1e-2, (NOISES[0],) * 2 if noiseless else NOISES, shape),
        "scale": (1.0, SCALES, shape),
    }
    logs = {
        name: torch.full(size, math.log(start), dtype=points.dtype, device=points.device).requires_grad_()
        for name, (start, _, size) in whole.items()
    }

    def process(standard: bool) -> GaussianProcess:
        lengthscale, noise, scale = (log.exp() for log in logs.values())
        if standard:
            unit = (values - center[..., None]) / variance.sqrt()[..., None]
            return GaussianProcess(kernel(lengthscale, scale), noise).condition(points, unit)
        return GaussianProcess(kernel(lengthscale, scale * variance), noise * variance, center).condition(
            points, values
        )

    optimizer = torch.optim.Adam(logs.values(), lr=STEP)
    for _ in range(steps):
        with torch.enable_grad():
            optimizer.zero_grad()
            (-process(standard=True).log_marginal_likelihood().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            for name, (_, (low, high), _) in whole.items():
                logs[name].clamp_(math.log(low), math.log(high))
    with torch.no_grad():
        return process(standard=False)


def _squared_distance(a: Tensor, b: Tensor, lengthscale: Number) -> Tensor:
    """r^2 (..., n, m), from differences: products of large coordinates would cancel."""
    a, b = upcast(check_floating("a", a)), upcast(check_floating("b", b))
    for name, points in (("a", a), ("b", b)):
        if points.ndim < 2 or points.shape[-1] != a.shape[-1]:
            wanted = "d" if points is a else a.shape[-1]
            raise ValueError(f"{name} must have shape (..., n, {wanted}); got {tuple(points.shape)}")
    if isinstance(lengthscale, Tensor) and lengthscale.ndim:
        lengthscale = lengthscale[..., None, :]
    a, b = a / lengthscale, b / lengthscale
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)


def _root(variance: Tensor) -> Tensor:
    """The square root; 0, without gradient, where rounding leaves nothing."""
    positive = ~(variance <= 0)
    return torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)


def _leading(value: Number, like: Tensor, trailing: int) -> Tensor:
    """A number or one for each leading dimension, in ``like``'s type, with ``trailing`` dimensions added."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value[(..., *([None] * trailing))]

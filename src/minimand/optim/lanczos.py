"""Eigenvalues of a symmetric matrix that is known by its products: the ends, exactly; all of them, as a density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minimand._checks import check_count, check_floating
from minimand._numerics import upcast, widest
from minimand.hyper import HyperSpec
from minimand.optim.curvature import SPECTRUM
from minimand.source import from_paper

Product = Callable[[Tensor], Tensor]  # (d,) -> (d,)

BREAKDOWN = 10.0  # a remainder under so many roundings of the matrix's size is none
LOOK_EVERY = 5  # steps between two looks at whether eigenvalues have been found
WIDTH = HyperSpec(1.0, low=0.0, closed="neither")
TOLERANCE = HyperSpec(1e-6, low=0.0)


class Lanczos(NamedTuple):
    """What ``lanczos`` finds: a quadrature of the spectrum as the start sees it.

    Args:
        nodes: (m,) Ritz values, rising, in float64.
        weights: (m,) what share of the start lies along each, adding up to its squared length over itself, 1.
        basis: (d, m) orthonormal, the start first.
    """

    nodes: Tensor
    weights: Tensor
    basis: Tensor


@from_paper(SPECTRUM)
def lanczos(matvec: Product, v: Tensor, steps: int) -> Lanczos:
    """Lanczos's iteration with full reorthogonalisation: A's best m-point quadrature as seen from v.

    sum_j w_j p(theta_j) = u . p(A) u, u = v / ||v||, for every polynomial p up to degree 2 m - 1

    Args:
        matvec: v -> A v, with A symmetric: a ``CurvatureOperator``, or any function of a vector.
        v: (d,), not zero.
        steps: m; fewer are taken where v sees fewer different eigenvalues.

    Each new direction is orthogonalised twice against all before it, without which found eigenvalues come again as
    ghosts; that takes m vectors of memory and O(d m^2) time. Vectors have the type of v, float32 for 16 bits; the
    m x m problem is solved in float64.

    Raises:
        TypeError, ValueError: a v that is no vector of numbers or zero, fewer than one step, products that are not
            finite.

    Source: Sagun et al. (2017), arXiv:1706.04454, whose spectra of large networks are found so; after Lanczos (1950).

    >>> found = lanczos(lambda v: torch.tensor([1.0, 3.0]) * v, torch.ones(2), steps=1)
    >>> round(found.nodes.item(), 6), found.weights.item()  # one point: the mean
    (2.0, 1.0)
    """
    check_floating("v", v, ndim=1)
    check_count("steps", steps)
    most = min(steps, len(v))
    space = _Krylov(matvec, v, most)
    while len(space.diagonal) < most and space.extend():
        pass
    nodes, vectors, _ = space.solved()
    return Lanczos(nodes, vectors[0].square(), space.basis())


@dataclass(frozen=True, eq=False)
class TopEigenvalues:
    """The largest eigenvalues that ``top_eigenvalues`` finds.

    Args:
        values: (k,), falling, in float64.
        vectors: (d, k), of length 1.
        bounds: (k,) how far from each value an eigenvalue lies at most, with some roundings of the vectors' type.
        steps: how many products it took.
    """

    values: Tensor
    vectors: Tensor
    bounds: Tensor
    steps: int


@from_paper(SPECTRUM)
def top_eigenvalues(
    matvec: Product,
    dim: int,
    count: int = 1,
    *,
    tolerance: float = TOLERANCE.default,
    max_steps: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> TopEigenvalues:
    """The ``count`` largest eigenvalues of a symmetric matrix, by Lanczos's iteration from a random start.

    It ends when all their bounds are under ``tolerance`` times the largest size, or after ``max_steps`` products; the
    bounds say which. For the smallest, give -A.

    Args:
        matvec: v -> A v.
        dim: d, the number of rows.
        count: k, at most d.
        tolerance: how far off, as a share of the largest eigenvalue's size.
        max_steps: products at most, and vectors of memory; 10 k + 100 unless given.
        seed: of the start.
        dtype, device: of the vectors that ``matvec`` is given.

    An eigenvalue that comes several times is found as often only once the iteration has gone through all that the
    start can see: with ``max_steps=dim`` and a tolerance of 0.

    Raises:
        TypeError, ValueError: numbers out of range, products that are not finite.

    Source: Sagun et al. (2017), arXiv:1706.04454.

    >>> found = top_eigenvalues(lambda v: torch.tensor([1.0, 5.0, -9.0]).double() * v, dim=3, count=2)
    >>> found.values.round(decimals=6)
    tensor([5., 1.], dtype=torch.float64)
    """
    check_count("dim", dim)
    check_count("count", count, most=dim)
    TOLERANCE.check("tolerance", tolerance)
    most = min(dim, 10 * count + 100 if max_steps is None else max_steps)
    check_count("max_steps", most, least=count)
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(dim, generator=generator, dtype=torch.float64).to(device, dtype)

    space = _Krylov(matvec, draw(), most)
    while len(space.diagonal) < most:
        if not space.extend() and len(space.diagonal) < most:
            space.restart(draw)
        size = len(space.diagonal)
        if tolerance > 0 and size >= count and size % LOOK_EVERY == 0:
            nodes, _, bounds = space.solved()
            if bool((bounds[-count:] <= tolerance * nodes.abs().amax()).all()):
                break
    nodes, vectors, bounds = space.solved()
    basis = space.basis()
    found = basis @ vectors[:, -count:].flip(1).to(basis)
    rounding = BREAKDOWN * torch.finfo(dtype).eps * nodes.abs().amax()
    return TopEigenvalues(nodes[-count:].flip(0), found, bounds[-count:].flip(0) + rounding, len(space.diagonal))


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """An estimate of how a matrix's eigenvalues lie, with its sampling error.

    Args:
        grid: (g,) where the density is given.
        density: (g,) the share of eigenvalues per unit, each widened to a Gaussian of standard deviation ``width``.
        error: (g,) the standard error of ``density`` over probes. It knows of the probes alone: not of the widening,
            nor of too few steps.
        width: that of the Gaussians.
        nodes, weights: (probes, steps), the quadrature of each probe; weight 0 past a probe's end.
    """

    grid: Tensor
    density: Tensor
    error: Tensor
    width: float
    nodes: Tensor
    weights: Tensor

    def mean(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """The mean over eigenvalues of a function, and its standard error over probes; times d it is the trace.

        Exact in the probe for polynomials up to degree 2 steps - 1; no width enters.
        """
        values = torch.where(self.weights > 0, self.weights * function(self.nodes), 0).sum(1)
        return float(values.mean()), float(values.std() / len(values) ** 0.5)


@from_paper(SPECTRUM)
def spectral_density(
    matvec: Product,
    dim: int,
    *,
    probes: int = 10,
    steps: int = 80,
    grid: Tensor | int = 500,
    width: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SpectralDensity:
    """Stochastic Lanczos quadrature: the density of a symmetric matrix's eigenvalues, from random probes.

    density(x) = mean over probes of sum_j w_j N(x; theta_j, width^2)

    Args:
        matvec: v -> A v.
        dim: d, the number of rows.
        probes: how many random vectors of signs, at least 2, so that they show their error.
        steps: of Lanczos's iteration a probe, and vectors of memory.
        grid: where the density is wanted (g,), or how many points, over all that is found and three widths more.
        width: above 0, of the Gaussian that stands for an eigenvalue; a hundredth of the range found unless given.
        seed: of the probes.
        dtype, device: of the vectors that ``matvec`` is given.

    Returns:
        The density with its standard error, in float64. It takes probes * steps products.

    Raises:
        TypeError, ValueError: numbers out of range, products that are not finite.

    Source: Sagun et al. (2017), arXiv:1706.04454, for what is estimated; after Lin, Saad and Yang (2016),
    arXiv:1308.5467, for how.

    >>> diagonal = torch.linspace(0, 1, 50, dtype=torch.float64)
    >>> found = spectral_density(lambda v: diagonal * v, dim=50, probes=4, steps=20)
    >>> [round(x, 6) for x in found.mean(lambda x: x)]  # signs see a diagonal's mean without error
    [0.5, 0.0]
    """
    check_count("dim", dim)
    check_count("probes", probes, least=2)  # so that they show their error
    check_count("steps", steps)
    if width is not None:
        WIDTH.check("width", width)
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.zeros(probes, min(steps, dim), dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for i in range(probes):
        signs = 2.0 * torch.randint(0, 2, (dim,), generator=generator) - 1
        found = lanczos(matvec, signs.to(device, dtype), steps)
        nodes[i, : len(found.nodes)], weights[i, : len(found.nodes)] = found.nodes.cpu(), found.weights.cpu()
    low, high = nodes[weights > 0].min(), nodes[weights > 0].max()
    if width is None:
        scale = high.abs().maximum(low.abs())
        width = float(((high - low) if high > low else scale if scale > 0 else torch.tensor(1.0)) / 100)
    if isinstance(grid, Tensor):
        points = widest(check_floating("grid", grid, ndim=1)).cpu()
    else:
        check_count("grid", grid)
        points = torch.linspace(float(low) - 3 * width, float(high) + 3 * width, grid, dtype=torch.float64)
    each = torch.stack([_widened(points, *probe, width) for probe in zip(nodes, weights, strict=True)])
    return SpectralDensity(points, each.mean(0), each.std(0) / probes**0.5, width, nodes, weights)


@from_paper(SPECTRUM)
def outlier_count(eigenvalues: Tensor, max_count: int | None = None) -> Tensor:
    """How many eigenvalues stand apart: the k at which the ratio of the k-th largest to the next is largest.

    Args:
        eigenvalues: (..., n), n >= 2, in any order. What is not positive counts as the largest's rounding.
        max_count: the largest k that is looked at, at most n - 1, which it is unless given.

    Returns:
        (...), int64; 0 where no eigenvalue is positive.

    Source: Sagun et al. (2017), arXiv:1706.04454, who count outliers by eye; the ratio stands for the eye.

    >>> outlier_count(torch.tensor([0.01, 3.0, 0.02, 4.0, -0.5]), max_count=3)  # 4, 3 | 0.02, 0.01
    tensor(2)
    """
    check_floating("eigenvalues", eigenvalues)
    if eigenvalues.ndim == 0 or eigenvalues.shape[-1] < 2:
        raise ValueError(f"eigenvalues must have shape (..., n) with n >= 2; got {tuple(eigenvalues.shape)}")
    most = eigenvalues.shape[-1] - 1
    if max_count is not None:
        check_count("max_count", max_count, most=most)
        most = max_count
    falling = widest(eigenvalues).sort(-1, descending=True).values[..., : most + 1]
    top = falling[..., :1]
    held = falling.maximum(torch.finfo(upcast(eigenvalues).dtype).eps * top)
    count = (held[..., :-1] / held[..., 1:]).argmax(-1) + 1
    return torch.where(top[..., 0] > 0, count, 0)


class _Krylov:
    """An orthonormal basis of v, A v, A^2 v, ... in which A is tridiagonal."""

    def __init__(self, matvec: Product, v: Tensor, most: int) -> None:
        start = upcast(v.detach())
        length = torch.linalg.vector_norm(start)
        if not bool(length.isfinite()) or float(length) == 0:
            raise ValueError(f"v must be finite and not zero; got length {float(length):g}")
        self.matvec, self._dtype = matvec, v.dtype
        self._rows = start.new_empty(most, len(v))  # of the basis; most of it is not touched before it is needed
        self._rows[0] = start / length
        self._filled = 1
        self.diagonal: list[float] = []
        self.beside: list[float] = []  # between a basis vector and the next; the last leads out of the basis
        self._size = 0.0

    def extend(self) -> bool:
        """Take a product with the newest vector; False where the basis is then closed under A."""
        newest = self._rows[len(self.diagonal)]
        image = self.matvec(newest.to(self._dtype))
        if image.shape != newest.shape:
            raise ValueError(f"matvec(v) must have v's shape {tuple(newest.shape)}; got {tuple(image.shape)}")
        image = upcast(image.detach()).to(newest.dtype)
        if not bool(image.isfinite().all()):
            raise ValueError("matvec(v) must be finite; got NaN or infinite numbers")
        along = float(widest(newest) @ widest(image))
        rest = self._orthogonal(image)
        left = float(torch.linalg.vector_norm(rest))
        self._size = max(self._size, abs(along) + left)
        closed = left <= BREAKDOWN * torch.finfo(rest.dtype).eps * self._size or len(self.diagonal) + 1 == len(rest)
        self.diagonal.append(along)
        self.beside.append(0.0 if closed else left)
        if not closed:
            self._add(rest / left)
        return not closed

    def restart(self, draw: Callable[[], Tensor]) -> None:
        """Go on from a random direction outside a basis that is closed."""
        rest = self._orthogonal(upcast(draw()))
        self._add(rest / torch.linalg.vector_norm(rest))

    def basis(self) -> Tensor:
        """(d, m)."""
        return self._rows[: len(self.diagonal)].mT

    def solved(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tridiagonal matrix's eigenvalues, rising, its eigenvectors, and how far off each eigenvalue may be."""
        beside = torch.tensor(self.beside, dtype=torch.float64)
        matrix = torch.tensor(self.diagonal, dtype=torch.float64).diag()
        matrix = matrix + beside[:-1].diag(1) + beside[:-1].diag(-1)
        nodes, vectors = torch.linalg.eigh(matrix)
        return nodes, vectors, beside[-1] * vectors[-1].abs()

    def _add(self, vector: Tensor) -> None:
        if self._filled < len(self._rows):
            self._rows[self._filled] = vector
            self._filled += 1

    def _orthogonal(self, vector: Tensor) -> Tensor:
        """What the basis leaves of a vector; twice, since once leaves roundings of what was taken."""
        rows = self._rows[: self._filled]
        for _ in range(2):
            vector = vector - rows.mT @ (rows @ vector)
        return vector


def _widened(points: Tensor, nodes: Tensor, weights: Tensor, width: float) -> Tensor:
    """(g,): the sum of Gaussians of these weights around these nodes."""
    apart = (points[:, None] - nodes) / width
    return (-apart.square() / 2).exp() @ weights / (width * (2 * torch.pi) ** 0.5)

"""Newton steps damped by the gradient's length, with any positive semidefinite curvature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating
from minimand.hyper import HyperSpec
from minimand.optim.curvature import empirical_fisher_vp, ggn_vp, hvp
from minimand.optim.objective import (
    Composite,
    Objective,
    Params,
    flatten,
    norm,
    pullback,
    unflatten,
    value_and_gradient,
)
from minimand.optim.solvers.solver import SolverState, StepInfo, unusable
from minimand.source import Source, from_paper

SMOOTHNESS = Source(
    "Gradient-Normalized Smoothness for Optimization with Approximate Hessians",
    "Semenov et al.",
    2025,
    "2506.13710",
    "algorithm 1",
)
Product = Callable[[Tensor], Tensor]  # (d,) -> (d,)

GAMMA = HyperSpec(1.0, low=0.0, closed="neither")
INDEFINITE = 1e-9  # a negative eigenvalue under this share of the diagonal's largest, or of the shift, is rounding
CG_TOLERANCE = 1e-10  # of the residual's length over the gradient's


CURVATURES: dict[str, Callable[..., Params]] = {
    "exact": hvp,
    "gauss_newton": ggn_vp,
    "fisher": empirical_fisher_vp,
}


@from_paper(SMOOTHNESS)
@dataclass(frozen=True, kw_only=True, eq=False)
class GradientRegularizedNewton:
    """Newton's method with the Hessian, or what stands for it, shifted by the gradient's length over a radius gamma.

    x+ = x - (H + (||g||_* / gamma) B)^{-1} g,  so that ||x+ - x|| <= gamma

    gamma follows the function: with lambda = ||g||_* / gamma a step is accepted if f(x) - f(x+) >= ||g+||_*^2 /
    (8 lambda), whereupon gamma doubles; until then it is halved. It so finds the radius within which the gradient is
    linear up to a share of its own length, the gradient-normalised smoothness, whatever class the function is of and
    however rough H. ||h||^2 = h . B h, and ||g||_*^2 = g . B^{-1} g.

    Args:
        hessian: H. "exact" is the Hessian, for convex functions; "gauss_newton" J^T (loss'') J, for outputs with
            Jacobian J, and "fisher" the mean of per-sample g_i g_i^T: both for a ``Composite``, the last for one with
            a loss a sample. Or a function of the parameters that gives the matrix (d, d) in their order end to end;
            or None for no curvature: gradient descent with a radius.
        gamma: the radius to begin with, above 0.
        metric: B (d, d), positive definite; None for the identity.
        linear_solver: "cholesky" forms H, in d products, and factorises it; "cg" takes products alone, by conjugate
            gradients, and sees negative curvature only where it comes along it.
        attempts: halvings of gamma in one step; then the solver has stalled, the radius having collapsed. At the
            rounding of f every step is refused: stop on the gradient before that.

    Parameters must be float64: the decrease that the search looks at is rounding in float32. ``module_objective``
    evaluates a float32 module in the parameters' type.

    Raises:
        ValueError: for an H that is not positive semidefinite, naming its least eigenvalue or curvature.
        TypeError: for parameters of another type, or a plain function where a ``Composite`` is needed.

    Source: Semenov et al. (2025), arXiv:2506.13710, algorithm 1. The paper's radius gamma(x) asks for that
    linearity in the ball's intersection with an ellipsoid around the direction; the search needs neither. The authors'
    code divides by gamma + 1e-8 and takes the last trial where all 40 fail; here none is taken then.

    >>> solver = GradientRegularizedNewton()
    >>> x = {"x": torch.tensor(1.0, dtype=torch.float64)}
    >>> x, state, _ = solver.step(lambda p: p["x"] ** 4 / 4, x, solver.init(x))
    >>> x["x"].item(), state["gamma"].item()  # 1 - 1 / (3 + 1 / 1)
    (0.75, 2.0)
    """

    hessian: Literal["exact", "fisher", "gauss_newton"] | Callable[[Params], Tensor] | None = "exact"
    gamma: float = 1.0
    metric: Tensor | None = None
    linear_solver: Literal["cholesky", "cg"] = "cholesky"
    attempts: int = 40

    def __post_init__(self) -> None:
        if isinstance(self.hessian, str) or not (self.hessian is None or callable(self.hessian)):
            check_choice("hessian", self.hessian, CURVATURES)
        check_choice("linear_solver", self.linear_solver, ("cholesky", "cg"))
        GAMMA.check("gamma", self.gamma)
        check_count("attempts", self.attempts)
        if self.metric is not None:
            metric = check_floating("metric", self.metric, ndim=2)
            if metric.shape[0] != metric.shape[1] or bool(torch.linalg.cholesky_ex(metric.double()).info):
                raise ValueError("metric must be a square positive definite matrix; got one that is not")

    def init(self, params: Params) -> SolverState:
        """The radius."""
        return {"gamma": torch.tensor(self.gamma, dtype=torch.float64)}

    @torch.no_grad()
    def step(self, objective: Objective, params: Params, state: SolverState) -> tuple[Params, SolverState, StepInfo]:
        """One step of the radius that is found, or none."""
        for name, param in params.items():
            if param.dtype != torch.float64:
                raise TypeError(f"params must be float64, as the search needs; got {param.dtype} for {name!r}")
        value, gradient = value_and_gradient(objective, params)
        start, length = float(value), float(norm(gradient))
        if failed := unusable(start, length):
            return params, state, failed
        if length == 0:
            return params, state, StepInfo(start, length, 1, "converged", "the gradient is zero")
        g = flatten(gradient)
        metric = None if self.metric is None else self.metric.to(g)
        if metric is not None and len(metric) != len(g):
            raise ValueError(f"metric must have shape ({len(g)}, {len(g)}); got {tuple(metric.shape)}")
        dual = _dual_norm(metric)
        gamma, best = float(state["gamma"]), -torch.inf
        solve = self._solver(objective, params, g, metric, float(dual(g)) / gamma)
        calls = 1
        for trial in range(1, self.attempts + 1):
            shift = float(dual(g)) / gamma
            move = unflatten(solve(shift), params)
            there = {name: param + move[name] for name, param in params.items()}
            reached, pull = pullback(objective, there)
            fallen, enough = start - float(reached), torch.inf
            if fallen > 0:  # never where it is NaN
                enough = float(dual(flatten(pull(torch.ones_like(reached))))) ** 2 / (8 * shift)
                calls += 1
            if fallen >= enough:
                numbers = {"gamma": gamma, "trials": float(trial)}
                after = {"gamma": state["gamma"].new_tensor(2 * gamma)}
                return there, after, StepInfo(start, length, calls, numbers=numbers)
            best = max(best, fallen)
            gamma /= 2
        message = (
            f"the radius collapsed from {float(state['gamma']):.3g} to {2 * gamma:.3g} without enough of a decrease: "
            f"by {best:.3g} at best from {start:.6g}, whose rounding is {abs(start) * torch.finfo(g.dtype).eps:.1g}; "
            f"the gradient's length is {length:.3g}"
        )
        numbers = {"gamma": 2 * gamma, "trials": float(self.attempts)}
        return params, state, StepInfo(start, length, calls, "stalled", message, numbers)

    def _solver(
        self, objective: Objective, params: Params, g: Tensor, metric: Tensor | None, least: float
    ) -> Callable[[float], Tensor]:
        """shift -> -(H + shift B)^{-1} g, for shifts from ``least`` up."""
        if self.hessian is None:
            unshifted = g if metric is None else torch.linalg.solve(metric, g)
            return lambda shift: -unshifted / shift
        product = self._product(objective, params, g)
        if self.linear_solver == "cg":
            return lambda shift: -conjugate_gradients(product, shift, metric, g)
        eye = torch.eye(len(g), dtype=g.dtype, device=g.device)
        base = eye if metric is None else metric
        matrix = torch.func.vmap(product)(eye)
        matrix = (matrix + matrix.mT) / 2
        _check_semidefinite(matrix, least)
        return lambda shift: -torch.cholesky_solve(g[:, None], torch.linalg.cholesky(matrix + shift * base))[:, 0]

    def _product(self, objective: Objective, params: Params, g: Tensor) -> Product:
        """v -> H v, on vectors as ``g``."""
        if callable(self.hessian):
            with torch.enable_grad():
                matrix = check_floating("hessian(params)", self.hessian(params)).detach().to(g)
            if matrix.shape != (len(g), len(g)):
                raise ValueError(f"hessian(params) must have shape ({len(g)}, {len(g)}); got {tuple(matrix.shape)}")
            return matrix.mv
        name = str(self.hessian)
        if name != "exact" and not isinstance(objective, Composite):
            what = f'a Composite for hessian="{name}"'
            raise TypeError(f"objective must be {what}; got {type(objective).__name__}")
        return lambda vector: flatten(CURVATURES[name](objective, params, unflatten(vector, params)))


def _dual_norm(metric: Tensor | None) -> Callable[[Tensor], Tensor]:
    """g -> sqrt(g . B^{-1} g)."""
    if metric is None:
        return torch.linalg.vector_norm
    factor = torch.linalg.cholesky(metric)
    return lambda g: torch.linalg.vector_norm(torch.linalg.solve_triangular(factor, g[:, None], upper=False))


def _check_semidefinite(matrix: Tensor, shift: float) -> None:
    """ValueError for a matrix with an eigenvalue below 0 that is no rounding and counts beside the shift."""
    slack = INDEFINITE * matrix.diagonal().abs().amax().clamp(min=shift)
    shifted = matrix + slack * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    if bool(torch.linalg.cholesky_ex(shifted).info):
        low, high = torch.linalg.eigvalsh(matrix)[[0, -1]].tolist()
        raise ValueError(f"hessian must be positive semidefinite; got eigenvalues from {low:.3g} to {high:.3g}")


def conjugate_gradients(product: Product, shift: float, metric: Tensor | None, right: Tensor) -> Tensor:
    """The x with (H + shift B) x = ``right``, H a product; B^{-1} preconditions.

    ValueError where a direction has negative curvature under H.
    """
    factor = None if metric is None else torch.linalg.cholesky(metric)

    def precondition(r: Tensor) -> Tensor:
        return r if factor is None else torch.cholesky_solve(r[:, None], factor)[:, 0]

    x, r = torch.zeros_like(right), right
    z = precondition(r)
    p, rz = z, r @ z
    for _ in range(2 * len(right)):  # d would do, but for rounding
        curved = product(p)
        bent = p @ curved
        size = torch.linalg.vector_norm(p)
        if bent < -INDEFINITE * size * (torch.linalg.vector_norm(curved) + shift * size):
            raise ValueError(f"hessian must be positive semidefinite; got curvature {float(bent / (p @ p)):.3g}")
        image = curved + shift * (p if metric is None else metric @ p)
        rate = rz / (p @ image)
        x, r = x + rate * p, r - rate * image
        if torch.linalg.vector_norm(r) <= CG_TOLERANCE * torch.linalg.vector_norm(right):
            break
        z = precondition(r)
        rz, before = r @ z, rz
        p = z + (rz / before) * p
    return x

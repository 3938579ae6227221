"""Rules that hold an estimate of curvature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from minimand._checks import check_count, check_same_shape
from minimand._numerics import upcast, widest
from minimand.hyper import HyperSpec, LogUniform
from minimand.optim.inverse_fisher import DAMPING, damped_cholesky
from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    VectorRule,
    ema,
    fraction,
    learning_rate,
    nonnegative,
    weight_decay,
    zero_step,
    zeros_like,
)
from minimand.source import Source

COLUMNS = 1 << 16  # of the window, widened at once


@dataclass(frozen=True, kw_only=True)
class Sophia(Rule):
    """Momentum over a running estimate of the Hessian's diagonal, every coordinate clipped.

    m_t = b1 m_{t-1} + (1 - b1) g_t;  u_t = clip(m_t / max(gamma h, eps), -1, 1)
    h <- b2 h + (1 - b2) d for every estimate d that ``observe`` is given: one every ten steps, before the first too

    Where curvature is small, negative or not yet known, the step is the momentum's sign. Estimates are
    ``hutchinson_diagonal``'s, with gamma = 0.01, or ``gauss_newton_bartlett_diagonal``'s, with the default of 0.05.

    Source: Liu et al. (2023), arXiv:2305.14342, algorithm 3. The authors' code keeps h without the factor B of the
    Gauss-Newton-Bartlett estimate and multiplies by it in the step; the default rate is their smallest model's. The
    first version of the paper clips m / max(h, eps) at rho: the same, with lr rho for lr and 1 / rho for gamma.
    """

    source = Source(
        "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
        "Liu et al.",
        2023,
        "2305.14342",
        "algorithm 3",
    )
    observes: ClassVar = "hess_diag"
    hypers = {
        "lr": learning_rate(6e-4),
        "beta1": fraction(0.96),
        "beta2": fraction(0.99),
        "gamma": nonnegative(0.05),
        "eps": HyperSpec(1e-12, low=0.0, closed="neither"),
        "weight_decay": weight_decay(0.2),
    }

    def init(self, param: Tensor) -> State:
        return {"mean": zeros_like(param), "curvature": zeros_like(param)}

    def observe(self, info: Tensor, state: State, param: Tensor, hyper: Hyper) -> State:
        """Take in an estimate of the Hessian's diagonal, in the parameter's shape."""
        check_same_shape(param=param, info=info)
        return {**state, "curvature": ema(state["curvature"], upcast(info), hyper["beta2"])}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        mean = ema(state["mean"], grad, hyper["beta1"])
        curved = (hyper["gamma"] * state["curvature"]).maximum(hyper["eps"].to(mean.dtype))
        # m / max(c, |m|) is m / c clipped at 1, and no quotient overflows.
        return mean / curved.maximum(mean.abs()), {"mean": mean, "curvature": state["curvature"].clone()}


@dataclass(frozen=True, kw_only=True)
class MFAC(VectorRule):
    """Gradients through the inverse of the empirical Fisher matrix of the last ``window`` of them, m in number.

    F_t = damping I + (1/m) sum over the window of g g^T, g_t among them;  v_t = F_t^{-1} g_t
    u_t = mu u_{t-1} + (1 - mu) v_t

    It acts on a group's parameters as one vector of d entries, on each alone with ``scope="param"``, and keeps m
    gradients: 4 m d bytes. A step reads them twice and solves m equations. Until m gradients have come the missing
    ones count as zeros, so that the first steps are the longest, up to m / ||g_t||: warm the rate up, or begin with a
    small one.

    Source: Frantar et al. (2021), arXiv:2107.03356, dynamic algorithm; defaults and the average over steps are the
    authors' code's. Its weight decay is ``decay="l2"``, part of the gradient that is kept. The paper updates a
    recursion; here the inner products of the kept gradients gain a row and a column a step, and a Cholesky factor in
    float64 solves with them, which gives the same.
    """

    source = Source(
        "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
        "Frantar et al.",
        2021,
        "2107.03356",
        "dynamic algorithm",
    )
    hypers = {
        "lr": learning_rate(1e-3),
        "damping": replace(DAMPING, search=LogUniform(1e-6, 1e-2)),
        "momentum": fraction(0.0),
        "weight_decay": weight_decay(),
    }
    window: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window", self.window)

    def init(self, param: Tensor) -> State:
        wide = zeros_like(param)
        return {
            "step": zero_step(),
            "window": wide.new_zeros(self.window, param.numel()),
            "gram": widest(wide.new_zeros(self.window, self.window)),
            "mean": wide,
        }

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        # The oldest row makes way. Which row is which does not matter to F.
        new = torch.arange(self.window, device=grad.device) == state["step"] % self.window
        window = torch.where(new[:, None], grad, state["window"])
        products = wide_product(window, grad)
        gram = torch.where(new[:, None], products, torch.where(new, products[:, None], state["gram"]))
        # F^{-1} G^T = m G^T (m damping I + G G^T)^{-1}, and g_t is one of G's rows: nothing cancels.
        factor = damped_cholesky(gram, self.window * hyper["damping"])
        weights = torch.cholesky_solve(new.to(gram.dtype)[:, None], factor)[:, 0]
        largest = weights.abs().amax()  # divided out: float32 does not hold the inverse square of a 1e30-sized norm
        mixed = window.mT @ (weights / largest).to(window.dtype)
        u = (self.window * largest * widest(mixed)).to(grad.dtype)
        mean = ema(state["mean"], u, hyper["momentum"])
        return mean, {"step": state["step"] + 1, "window": window, "gram": gram, "mean": mean}


def wide_product(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector in float64, by blocks of columns: a wide copy of the matrix would be twice its size."""
    blocks = zip(matrix.split(COLUMNS, 1), vector.split(COLUMNS), strict=True)
    return torch.stack([widest(part) @ widest(of) for part, of in blocks]).sum(0)

"""Rules with at most one moment: SGD, momentum, sign descent and the Lion family, AdaGrad by entry and by norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice
from minimand.hyper import HyperSpec, LogUniform
from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    VectorRule,
    ema,
    fraction,
    learning_rate,
    nonnegative,
    sign,
    weight_decay,
    zero_step,
    zeros_like,
)
from minimand.optim.rules.matrix import orthogonalise
from minimand.source import Source


@dataclass(frozen=True, kw_only=True)
class SGD(Rule):
    """Plain gradient descent: u_t = g_t.

    Source: Robbins & Monro (1951), A Stochastic Approximation Method.
    """

    source = Source("A Stochastic Approximation Method", "Robbins & Monro", 1951)
    hypers = {"lr": HyperSpec(1e-2, low=0.0, search=LogUniform(1e-3, 1.0)), "weight_decay": weight_decay()}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        return grad, state


@dataclass(frozen=True, kw_only=True)
class Momentum(Rule):
    """Heavy-ball descent as PyTorch writes it.

    m_1 = g_1, m_t = mu m_{t-1} + (1 - dampening) g_t; u_t = m_t, or g_t + mu m_t with ``nesterov``.

    Source: Polyak (1964), Some Methods of Speeding up the Convergence of Iteration Methods; Sutskever et al. (2013)
    for ``nesterov``. The buffer starts at the first gradient, without dampening, as in ``torch.optim.SGD``.
    """

    source = Source("Some Methods of Speeding up the Convergence of Iteration Methods", "Polyak", 1964)
    hypers = {
        "lr": HyperSpec(1e-2, low=0.0, search=LogUniform(1e-3, 1.0)),
        "momentum": fraction(0.9),
        "dampening": HyperSpec(0.0, low=0.0, high=1.0),
        "weight_decay": weight_decay(),
    }
    nesterov: bool = False

    def init(self, param: Tensor) -> State:
        return {"step": zero_step(), "mean": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        step = state["step"] + 1
        fresh = torch.where(step == 1, 1.0, 1 - hyper["dampening"])
        mean = hyper["momentum"] * state["mean"] + fresh * grad
        u = grad + hyper["momentum"] * mean if self.nesterov else mean
        return u, {"step": step, "mean": mean}


@dataclass(frozen=True, kw_only=True)
class SignSGD(Rule):
    """Only the gradient's sign: u_t = sign(g_t).

    Source: Bernstein et al. (2018), arXiv:1802.04434, algorithm 1.
    """

    source = Source("signSGD: Compressed Optimisation for Non-Convex Problems", "Bernstein et al.", 2018, "1802.04434")
    hypers = {"lr": learning_rate(1e-3), "weight_decay": weight_decay()}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        return sign(grad), state


LION_HYPERS = {
    "lr": learning_rate(1e-4),
    "beta1": fraction(0.9),
    "beta2": fraction(0.99),
    "weight_decay": weight_decay(),
}


@dataclass(frozen=True, kw_only=True)
class Lion(Rule):
    """The sign of a momentum that looks one gradient ahead of the one it keeps.

    u_t = sign(b1 m_{t-1} + (1 - b1) g_t);  m_t = b2 m_{t-1} + (1 - b2) g_t

    Source: Chen et al. (2023), arXiv:2302.06675, algorithm 2. ``LionK`` with the kernel ``"sign"``.
    """

    source = Source("Symbolic Discovery of Optimization Algorithms", "Chen et al.", 2023, "2302.06675", "algorithm 2")
    hypers = LION_HYPERS

    def init(self, param: Tensor) -> State:
        return {"mean": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        ahead = ema(state["mean"], grad, hyper["beta1"])
        return self.kernel_gradient(ahead, hyper), {"mean": ema(state["mean"], grad, hyper["beta2"])}

    def kernel_gradient(self, x: Tensor, hyper: Hyper) -> Tensor:
        """The gradient of the kernel K, here the l1 norm; sign(0) = 0."""
        return sign(x)


Kernel = Literal["sign", "l2", "nuclear", "identity", "dead_zone"]


@dataclass(frozen=True, kw_only=True)
class LionK(Lion):
    """Lion with the gradient of any convex kernel K in place of the sign.

    u_t = grad K(b1 m_{t-1} + (1 - b1) g_t). With decoupled decay lambda it minimises f(x) + K*(lambda x) / lambda:
    inside a box for ``"sign"``, a ball for ``"l2"``, a spectral ball for ``"nuclear"``; with a quadratic penalty
    for ``"identity"``; with an l1 penalty of weight ``dead_zone`` and a box for ``"dead_zone"``.

    Source: Chen et al. (2023), arXiv:2310.05898, equation 2 and table 1.
    """

    source = Source(
        "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
        "Chen et al.",
        2023,
        "2310.05898",
        "equation 2",
    )
    event: ClassVar = "tensor"
    hypers = {**LION_HYPERS, "dead_zone": nonnegative(1e-3)}
    kernel: Kernel = "sign"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("kernel", self.kernel, ("sign", "l2", "nuclear", "identity", "dead_zone"))

    def kernel_gradient(self, x: Tensor, hyper: Hyper) -> Tensor:
        if self.kernel == "l2":
            return unit(x)
        if self.kernel == "nuclear":
            return unit(x) if x.ndim < 2 else orthogonalise(x.flatten(1), steps=10).reshape(x.shape)
        if self.kernel == "identity":
            return x
        if self.kernel == "dead_zone":
            return torch.where(x.abs() <= hyper["dead_zone"], torch.zeros_like(x), sign(x))
        return sign(x)


def unit(x: Tensor) -> Tensor:
    """x / ||x||, and 0 for 0; the largest entry is divided out first, so that squares cannot overflow."""
    if x.numel() == 0:
        return x
    largest = x.abs().amax()
    scaled = x / torch.where(largest > 0, largest, torch.ones_like(largest))
    norm = torch.linalg.vector_norm(scaled)
    return scaled / torch.where(norm > 0, norm, torch.ones_like(norm))


@dataclass(frozen=True, kw_only=True)
class AdaGrad(Rule):
    """A rate for each entry that falls with the squared gradients it has seen: s_t = s_{t-1} + g_t^2.

    u_t = g_t / (sqrt(s_t) + eps), with s_0 = ``initial_accumulator_value``

    Source: Duchi et al. (2011), Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, figure
    1, the diagonal update. ``eps`` outside the root is PyTorch's.
    """

    source = Source(
        "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", "Duchi et al.", 2011
    )
    hypers = {
        "lr": HyperSpec(1e-2, low=0.0, search=LogUniform(1e-3, 1.0)),
        "initial_accumulator_value": nonnegative(0.0),
        "eps": nonnegative(1e-10),
        "weight_decay": weight_decay(),
    }

    def init(self, param: Tensor) -> State:
        return {"sum": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        total = state["sum"] + grad.square()
        return grad / ((total + hyper["initial_accumulator_value"]).sqrt() + hyper["eps"]), {"sum": total}


@dataclass(frozen=True, kw_only=True)
class AdaGradNorm(VectorRule):
    """One adaptive rate for a whole vector: b_t^2 = b_{t-1}^2 + ||g_t||^2, u_t = g_t / b_t.

    Source: Ward et al. (2019), arXiv:1806.01811, algorithm 1.
    """

    source = Source(
        "AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes",
        "Ward et al.",
        2019,
        "1806.01811",
        "algorithm 1",
    )
    hypers = {
        "lr": HyperSpec(1e-1, low=0.0, search=LogUniform(1e-2, 10.0)),
        "initial_norm": HyperSpec(1e-2, low=0.0, closed="neither"),
        "weight_decay": weight_decay(),
    }

    def init(self, param: Tensor) -> State:
        return {"norm": zeros_like(param).new_zeros(())}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        # hypot by scaling: the square of a 1e30-sized norm is beyond float32.
        start = hyper["initial_norm"].to(grad)
        largest = torch.cat([grad.abs(), state["norm"].reshape(1), start.reshape(1)]).amax()
        old = torch.where(state["norm"] > 0, state["norm"], start) / largest
        norm = (old.square() + (grad / largest).square().sum()).sqrt()
        return grad / largest / norm, {"norm": norm * largest}

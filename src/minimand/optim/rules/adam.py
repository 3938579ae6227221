"""Adam and its relatives: a first moment over the root of a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minimand._checks import check_floating, check_same_device, check_same_shape
from minimand._numerics import upcast
from minimand.hyper import HyperSpec
from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    adam_hypers,
    debias,
    ema,
    nonnegative,
    zero_step,
    zeros_like,
)
from minimand.source import Source


@dataclass(frozen=True, kw_only=True)
class AdamW(Rule):
    """Adam with decoupled weight decay; ``decay="l2"`` is Adam as first published.

    m_t = b1 m_{t-1} + (1 - b1) g_t;  v_t = b2 v_{t-1} + (1 - b2) g_t^2
    u_t = m_t / (1 - b1^t) / (sqrt(v_t / (1 - b2^t)) + eps)

    Source: Loshchilov & Hutter (2019), arXiv:1711.05101, algorithm 2; Kingma & Ba (2015), arXiv:1412.6980.
    """

    source = Source("Decoupled Weight Decay Regularization", "Loshchilov & Hutter", 2019, "1711.05101", "algorithm 2")
    hypers = adam_hypers(decay=1e-2)

    def init(self, param: Tensor) -> State:
        return {"step": zero_step(), "mean": zeros_like(param), "square": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        step = state["step"] + 1
        mean = ema(state["mean"], grad, hyper["beta1"])
        square = ema(state["square"], grad.square(), hyper["beta2"])
        u = debias(mean, hyper["beta1"], step) / (debias(square, hyper["beta2"], step).sqrt() + hyper["eps"])
        return u, {"step": step, "mean": mean, "square": square}


@dataclass(frozen=True, kw_only=True)
class AdaBelief(Rule):
    """Adam with the second moment taken around the mean: large steps where gradients agree with their forecast.

    m_t = b1 m_{t-1} + (1 - b1) g_t;  s_t = b2 s_{t-1} + (1 - b2)(g_t - m_t)^2 + eps
    u_t = m_t / (1 - b1^t) / (sqrt(s_t / (1 - b2^t)) + eps)

    Source: Zhuang et al. (2020), arXiv:2010.07468, algorithm 2. ``eps`` enters twice, as there; its default is the
    authors' package's. That package also rectifies the step as RAdam does; the paper does not, nor does this.
    """

    source = Source(
        "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
        "Zhuang et al.",
        2020,
        "2010.07468",
        "algorithm 2",
    )
    hypers = adam_hypers(eps=1e-16)

    def init(self, param: Tensor) -> State:
        return {"step": zero_step(), "mean": zeros_like(param), "spread": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        step = state["step"] + 1
        mean = ema(state["mean"], grad, hyper["beta1"])
        spread = ema(state["spread"], (grad - mean).square(), hyper["beta2"]) + hyper["eps"]
        u = debias(mean, hyper["beta1"], step) / (debias(spread, hyper["beta2"], step).sqrt() + hyper["eps"])
        return u, {"step": step, "mean": mean, "spread": spread}


@dataclass(frozen=True, kw_only=True)
class DiffGrad(Rule):
    """Adam with a friction: small steps where the gradient hardly changes.

    xi_t = 1 / (1 + exp(-|g_{t-1} - g_t|)) in [0.5, 1], g_0 = 0;  u_t = xi_t * Adam's u_t

    Source: Dubey et al. (2019), arXiv:1909.11015, equations 4 to 8. ``eps`` is added to the bias-corrected root, as
    in the paper; the authors' code adds it before the correction.
    """

    source = Source(
        "diffGrad: An Optimization Method for Convolutional Neural Networks",
        "Dubey et al.",
        2019,
        "1909.11015",
        "equations 4 to 8",
    )
    hypers = adam_hypers()

    def init(self, param: Tensor) -> State:
        return {**AdamW().init(param), "previous_grad": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        friction = (state["previous_grad"] - grad).abs().sigmoid()
        u, state = AdamW().direction(grad, state, param, hyper)
        # A copy: the caller may write its next gradient into the same memory.
        return friction * u, {**state, "previous_grad": grad.clone()}


@dataclass(frozen=True, kw_only=True)
class AdamP(Rule):
    """Adam that takes the radial part out of its step where a weight's scale does not matter.

    Where max over views of |cos(g_t, w_t)| < delta / sqrt(dim of the view), with the rows (outputs) as views first,
    the whole tensor second: u_t <- u_t - (w.u / ||w||^2) w per view, and the decay is multiplied by ``wd_ratio``.
    Parameters with fewer than two dimensions take Adam's step.

    Source: Heo et al. (2021), arXiv:2006.08217, algorithm 2.
    """

    source = Source(
        "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
        "Heo et al.",
        2021,
        "2006.08217",
        "algorithm 2",
    )
    event: ClassVar = "tensor"
    hypers = {
        **adam_hypers(),
        "delta": nonnegative(0.1),
        "wd_ratio": HyperSpec(0.1, low=0.0, high=1.0),
    }

    def init(self, param: Tensor) -> State:
        return AdamW().init(param)

    def update(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        wide, grad = upcast(param), upcast(grad)
        decayed = grad + hyper["weight_decay"] * wide if self.decay == "l2" else grad
        u, state = AdamW().direction(decayed, state, wide, hyper)
        u, projected = radial_projection(u, wide, grad, hyper["delta"])
        step = -hyper["lr"] * u
        if self.decay == "decoupled":
            ratio = torch.where(projected, hyper["wd_ratio"], 1.0)
            step = step - hyper["lr"] * hyper["weight_decay"] * ratio * wide
        return step.to(param.dtype), state


def radial_projection(u: Tensor, weight: Tensor, grad: Tensor, delta: Tensor | float) -> tuple[Tensor, Tensor]:
    """Take from ``u`` its part along ``weight`` where ``grad`` says that the weight's scale does not matter.

    ``u``, ``weight`` and ``grad`` have one shape. A scale-invariant weight is orthogonal to its gradient; the test is
    made on rows (first dimension) and then on the whole tensor, all or nothing. Returns the new ``u`` and a boolean
    0-d tensor, whether it was projected. Source: Heo et al. (2021), arXiv:2006.08217, equations 11 and 12.

    >>> weight, grad = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> radial_projection(torch.tensor([[3.0, 4.0]]), weight, grad, delta=0.1)
    (tensor([[0., 4.]]), tensor(True))
    """
    for name, value in (("u", u), ("weight", weight), ("grad", grad)):
        check_floating(name, value)
    check_same_shape(u=u, weight=weight, grad=grad)
    check_same_device(u=u, weight=weight, grad=grad)
    if not isinstance(delta, Tensor):
        nonnegative(0.1).check("delta", delta)
    if weight.ndim < 2 or weight.numel() == 0:
        return u, torch.zeros((), dtype=torch.bool, device=weight.device)
    shape = weight.shape
    by_rows = [upcast(x).reshape(shape[0], -1) for x in (u, weight, grad)]
    whole = [upcast(x).reshape(1, -1) for x in (u, weight, grad)]
    rows_cosine, layer_cosine = (_largest_cosine(g, w) for _, w, g in (by_rows, whole))
    rows_free = rows_cosine < delta / by_rows[1].shape[1] ** 0.5
    layer_free = layer_cosine < delta / weight.numel() ** 0.5
    row_u, layer_u = (_without_radial(u, w).reshape(shape) for u, w, _ in (by_rows, whole))
    projected = torch.where(rows_free, row_u, torch.where(layer_free, layer_u, upcast(u)))
    projected = torch.where(rows_cosine.isnan(), rows_cosine, projected)  # a comparison with NaN would hide it
    return projected.to(u.dtype), rows_free | layer_free


def _largest_cosine(grad: Tensor, weight: Tensor) -> Tensor:
    """The largest |cosine| over rows."""
    return (_unit_rows(grad) * _unit_rows(weight)).sum(1).abs().amax()


def _without_radial(u: Tensor, weight: Tensor) -> Tensor:
    """``u`` less its projection on ``weight``, row by row."""
    unit = _unit_rows(weight)
    return u - (unit * u).sum(1, keepdim=True) * unit


def _unit_rows(x: Tensor) -> Tensor:
    """Rows over their norms, zero for zero; the largest entry is divided out first against overflow."""
    largest = x.abs().amax(1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1.0)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # unlike a root of squares, differentiable at 0
    return x / torch.where(norm > 0, norm, 1.0)

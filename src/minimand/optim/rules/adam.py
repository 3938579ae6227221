"""Adam and its relatives: a first moment over the root of a second."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    adam_hypers,
    debias,
    ema,
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

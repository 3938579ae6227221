"""AdamP and SGDP: steps without their radial part, for weights whose scale does not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from minimand._checks import check_floating, check_same_device, check_same_shape
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, as_hyper
from minimand.optim.rule import Hyper, Rule, State, adam_hypers, fraction, nonnegative
from minimand.optim.rules.adam import AdamW
from minimand.optim.rules.first_order import Momentum
from minimand.source import Source, from_paper

ADAMP = Source(
    "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    "Heo et al.",
    2021,
    "2006.08217",
)
PROJECTION = {"delta": nonnegative(0.1), "wd_ratio": HyperSpec(0.1, low=0.0, high=1.0)}


@dataclass(frozen=True, kw_only=True)
class Projected(Rule):
    """What AdamP and SGDP share: ``radial_projection`` of the direction, and ``wd_ratio`` of the decay where it acts.

    Only the step is projected, never the state.
    """

    event: ClassVar = "tensor"

    def decay_factor(self, hyper: Hyper) -> Tensor | float:
        """What the decay of every parameter is multiplied by."""
        return 1.0

    def update(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        wide, grad = upcast(param), upcast(grad)
        decays = "weight_decay" in hyper
        decayed = grad + hyper["weight_decay"] * wide if decays and self.decay == "l2" else grad
        u, state = self.direction(decayed, state, wide, hyper)
        u, projected = radial_projection(u, wide, grad, hyper["delta"])
        step = -hyper["lr"] * u
        if decays and self.decay == "decoupled":
            ratio = torch.where(projected, hyper["wd_ratio"], 1.0) * self.decay_factor(hyper)
            step = step - hyper["lr"] * hyper["weight_decay"] * ratio * wide
        return step.to(param.dtype), state


@dataclass(frozen=True, kw_only=True)
class AdamP(Projected):
    """Adam that takes the radial part out of its step where a weight's scale does not matter.

    Where max over views of |cos(g_t, w_t)| < delta / sqrt(dim of the view), with the rows (outputs) as views first,
    the whole tensor second: u_t <- u_t - (w.u / ||w||^2) w per view, and the decay is multiplied by ``wd_ratio``.
    Parameters with fewer than two dimensions take Adam's step.

    Source: Heo et al. (2021), arXiv:2006.08217, algorithm 2.
    """

    source = replace(ADAMP, where="algorithm 2")
    hypers = {**adam_hypers(), **PROJECTION}

    def init(self, param: Tensor) -> State:
        return AdamW().init(param)

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        return AdamW().direction(grad, state, param, hyper)


@dataclass(frozen=True, kw_only=True)
class SGDP(Projected):
    """Momentum that takes the radial part out of its step where a weight's scale does not matter.

    m_t = mu m_{t-1} + g_t; u_t = m_t, or g_t + mu m_t with ``nesterov``; then u_t is projected as ``AdamP``'s is. The
    decoupled decay is lr * weight_decay / (1 - mu), so that it keeps pace with momentum's longer steps; it too is
    multiplied by ``wd_ratio`` where u_t is projected.

    Source: Heo et al. (2021), arXiv:2006.08217, algorithm 1. As there, only the step is projected; the authors' code
    without ``nesterov`` projects the buffer m_t too. The decay is that code's.
    """

    source = replace(ADAMP, where="algorithm 1")
    hypers = {**Momentum.hypers, **PROJECTION}
    nesterov: bool = False

    def init(self, param: Tensor) -> State:
        return Momentum().init(param)

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        return Momentum(nesterov=self.nesterov).direction(grad, state, param, hyper)

    def decay_factor(self, hyper: Hyper) -> Tensor | float:
        return 1 / (1 - hyper["momentum"])


@from_paper(replace(ADAMP, where="norm growth by momentum"))
def scale_invariant_norm_growth(p_norms: Tensor, lr: Tensor | float, beta: Tensor | float) -> Tensor:
    """By how much momentum has made the squared norm of a scale-invariant weight grow: ||w_{T+1}||^2 - ||w_1||^2.

    Steps are w_{t+1} = w_t - lr p_t with p_t = beta p_{t-1} + g_t, p_0 = 0, and g_t is orthogonal to w_t. Then

        growth = lr^2 sum_t ||p_t||^2 + 2 lr^2 sum_t sum_{k<t} beta^{t-k} ||p_k||^2
               = lr^2 sum_k ||p_k||^2 (1 + 2 beta (1 - beta^{T-k}) / (1 - beta)),

    of which a step without its radial part keeps the first sum alone. ``p_norms`` (..., T) holds ||p_1|| to ||p_T||;
    the result has shape (...). ValueError for ``lr`` < 0 and for ``beta`` outside [0, 1).

    Source: Heo et al. (2021), arXiv:2006.08217, section 2, norm growth by momentum.

    >>> scale_invariant_norm_growth(torch.tensor([1.0, 2.0]), lr=1.0, beta=0.5)  # 1 + 4, and 2 * 0.5 * 1
    tensor(6.)
    """
    check_floating("p_norms", p_norms)
    if p_norms.ndim < 1:
        raise ValueError(f"p_norms must have shape (..., T); got {tuple(p_norms.shape)}")
    nonnegative(0.1).check("lr", lr)
    fraction(0.9).check("beta", beta)
    norms = upcast(p_norms)
    left = torch.arange(norms.shape[-1] - 1, -1, -1, device=norms.device, dtype=torch.float64)
    echoes = 2 * beta * (1 - as_hyper(beta).to(left.device) ** left) / (1 - beta)
    return ((lr * norms).square() * (1 + echoes).to(norms.dtype)).sum(-1).to(p_norms.dtype)


@from_paper(replace(ADAMP, where="equations 11 and 12"))
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
    u_rows, rows, grad_rows = (upcast(x).reshape(weight.shape[0], -1) for x in (u, weight, grad))
    # The gradient's scale does not matter, and squares of 1e30 are too large for float32.
    grad_rows = grad_rows / _or_one(torch.maximum(grad_rows.amax(), -grad_rows.amin()))
    norms, grad_norms = (torch.linalg.vector_norm(x, dim=1) for x in (rows, grad_rows))
    norm, grad_norm = (torch.linalg.vector_norm(x) for x in (norms, grad_norms))
    along_grad, along_u = ((x * rows).sum(1) for x in (grad_rows, u_rows))
    rows_cosine = (along_grad.abs() / _or_one(norms * grad_norms)).amax()
    layer_cosine = along_grad.sum().abs() / _or_one(norm * grad_norm)
    rows_free = rows_cosine < delta / rows.shape[1] ** 0.5
    layer_free = layer_cosine < delta / weight.numel() ** 0.5
    by_rows, by_layer = along_u / _or_one(norms.square()), along_u.sum() / _or_one(norm.square())
    part = torch.where(rows_free, by_rows, torch.where(layer_free, by_layer, 0.0))
    part = torch.where(rows_cosine.isnan(), rows_cosine, part)  # a comparison with NaN would hide it
    projected = u_rows - part.to(rows.dtype)[:, None] * rows
    return projected.reshape(u.shape).to(u.dtype), rows_free | layer_free


def _or_one(norm: Tensor) -> Tensor:
    """Norms to divide by, 1 for what is zero."""
    return torch.where(norm > 0, norm, 1.0)

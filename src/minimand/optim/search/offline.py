"""Offline search: designs found by climbing a surrogate of logged values, and what keeps it from flattering them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from minimand._checks import check_count, check_floating
from minimand._numerics import downcast, upcast
from minimand.hyper import HyperSpec, as_hyper
from minimand.losses.loss import narrowed
from minimand.optim.objective import Params, flatten, unflatten
from minimand.optim.rule import Rule
from minimand.optim.rules import AdamW
from minimand.source import Source, from_paper

IGNITE = Source(
    "Incorporating Surrogate Gradient Norm to Improve Offline Optimization Techniques",
    "Dao et al.",
    2025,
    "2503.04242",
    "section 3",
)

RHO = HyperSpec(0.05, low=0.0, closed="left")
APART = HyperSpec(0.05, low=0.0, closed="neither")
NOT_NEGATIVE = HyperSpec(1e-3, low=0.0, closed="left")


@from_paper(IGNITE)
def gradient_norm_penalty(
    predict: Callable[[Params, Tensor], Tensor],
    params: Mapping[str, Tensor],
    x: Tensor,
    rho: float = 0.05,
    r: float | None = None,
) -> Tensor:
    """How much the mean prediction can rise where the parameters move by rho: rho ||grad G(b)||, to first order.

    G(b) = mean_i predict(b, x_i), the predictions' mean and not a loss. Its gradient in b is rho H u,
    u = grad G / ||grad G|| and H the Hessian of G, exactly (``r=None``: a second backward pass) or by the difference
    (rho / r) (grad G(b + r u) - grad G(b)), as the authors do, which for quadratic G is the same. Where grad G is 0,
    the gradient is 0. Add ``multiplier * gradient_norm_penalty(...)`` to the loss that the surrogate is trained on.

    Args:
        predict: ``(params, x)`` -> predictions, one a row of x; differentiable in ``params``.
        params: b, {name: floating-point tensor}: for a module ``dict(module.named_parameters())`` and
            ``torch.func.functional_call``. 16-bit parameters are handed on in float32.
        x: (N, ...) designs, N at least 1.
        rho: how far the parameters may move, all together, at least 0.
        r: the distance of the difference, above 0; None for the exact gradient.

    Returns:
        a scalar in the first parameter's type and the predictions' units. Its gradient reaches the parameters, and x
        where ``r`` is None.

    Raises:
        ValueError, TypeError: for types or numbers that do not fit, no parameters, no designs.

    Source: Dao et al. (2025), arXiv:2503.04242, section 3; rho = r = 0.05 are the defaults of the authors' code.

    >>> penalty = lambda b: gradient_norm_penalty(lambda p, x: p["b"] ** 2 * x, {"b": b}, torch.ones(4), rho=0.5)
    >>> penalty(torch.tensor(3.0)), torch.func.grad(penalty)(torch.tensor(3.0))  # 0.5 * |2 b|, and its slope
    (tensor(3.), tensor(1.))
    """
    given = {name: upcast(check_floating(f"params[{name!r}]", value)) for name, value in params.items()}
    if not given:
        raise ValueError("params must hold at least one tensor; got none")
    x = upcast(check_floating("x", x))
    RHO.check("rho", rho)
    if r is not None:
        APART.check("r", r)

    def slope(b: Params) -> Tensor:
        return flatten(torch.func.grad(lambda own: _mean_prediction(predict, own, x))(b))

    if r is None:
        value = rho * torch.linalg.vector_norm(slope(given))  # whose gradient at 0 is 0
    else:
        fixed = {name: value.detach() for name, value in given.items()}
        here = slope(fixed).detach()
        length = torch.linalg.vector_norm(here)
        step = unflatten(r * here / torch.where(length == 0, 1, length), fixed)
        there = slope({name: value + step[name] for name, value in fixed.items()}).detach()
        moved = flatten(given) - flatten(fixed)  # 0, and carries the gradient
        value = rho * length + (rho / r * (there - here) * moved).sum()
    return narrowed(value, next(iter(params.values())).dtype)


def _mean_prediction(predict: Callable[[Params, Tensor], Tensor], params: Params, x: Tensor) -> Tensor:
    predictions = predict(params, x)
    if predictions.numel() == 0:
        raise ValueError(f"x must hold at least one design; got shape {tuple(x.shape)}")
    return predictions.mean()


@from_paper(IGNITE)
class IgniteMultiplier(nn.Module):
    """The multiplier of the constraint penalty <= epsilon: lambda <- max(lambda + rate (penalty - epsilon), 0).

    Called on a penalty it gives lambda times the penalty, to be added to the loss, and in training mode then moves
    lambda, which grows as long as the penalty is above ``epsilon``. ``rate=0`` holds lambda: IGNITE-2.

    Args:
        start: the first lambda, at least 0.
        epsilon: what the penalty may come to, in its units, at least 0.
        rate: of the ascent, at least 0.

    Attributes:
        value: lambda, a 0-d tensor.

    Raises:
        ValueError, TypeError: for arguments that do not fit.

    Source: Dao et al. (2025), arXiv:2503.04242; the defaults are those of the authors' code. That lambda
    stays at 0 or above is ours: a multiplier of an inequality must.

    >>> multiplier = IgniteMultiplier(start=1.0, epsilon=0.5, rate=0.1)
    >>> multiplier(torch.tensor(2.5)), multiplier.value  # 1 + 0.1 (2.5 - 0.5)
    (tensor(2.5000), tensor(1.2000))
    """

    value: Tensor

    def __init__(self, start: float = 1e-3, epsilon: float = 1e-3, rate: float = 1e-3) -> None:
        super().__init__()
        for name, number in (("start", start), ("epsilon", epsilon), ("rate", rate)):
            NOT_NEGATIVE.check(name, number)
        self.epsilon, self.rate = epsilon, rate
        self.register_buffer("value", torch.tensor(float(start)))

    def forward(self, penalty: Tensor) -> Tensor:
        """lambda times ``penalty``, a scalar, in its type."""
        penalty = check_floating("penalty", penalty, ndim=0)
        wide = upcast(penalty)
        now = self.value.to(wide.dtype, copy=True)  # what the gradient is made of must not change under it
        if self.training:
            self.value.copy_((now + self.rate * (wide.detach() - self.epsilon)).clamp(min=0))
        return downcast(now * wide, penalty.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"epsilon={self.epsilon}, rate={self.rate}"


@from_paper(IGNITE)
def ascend_surrogate(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    steps: int = 200,
    lr: float = 0.01,
    rule: Rule | None = None,
) -> Tensor:
    """Designs that a surrogate likes better: ``steps`` of gradient ascent on its predictions, each design by itself.

    Start from the best logged designs, and standardise their features: one rate then suits all.

    Args:
        predict: (N, ...) designs -> (N,) predictions, each of its own row alone.
        x: (N, ...) where to start.
        steps: at least 0.
        lr: the rule's learning rate, at least 0.
        rule: an update rule that acts on elements; Adam unless given, ``rules.SGD()`` for plain ascent.

    Returns:
        (N, ...) the designs in x's type, without gradient.

    Raises:
        ValueError, TypeError: for types, shapes or numbers that do not fit.

    Source: Dao et al. (2025), arXiv:2503.04242, section 5, whose 128 best designs go 200 steps of 0.01 by Adam.

    >>> from minimand.optim import rules
    >>> ascend_surrogate(lambda x: -(x - 1).square().sum(1), torch.zeros(1, 2), 1, 0.5, rules.SGD())  # 2 * 0.5 * 1
    tensor([[1., 1.]])
    """
    x = check_floating("x", x)
    if x.ndim == 0:
        raise ValueError(f"x must have shape (N, ...); got {tuple(x.shape)}")
    check_count("steps", steps, 0)
    rule = AdamW() if rule is None else rule
    if rule.event != "element":
        raise ValueError(f"rule must act on elements, so that designs do not mix; got {type(rule).__name__}")
    numbers = {name: value for name, value in rule.defaults().items() if name != "weight_decay"}
    hyper = {name: as_hyper(value) for name, value in {**numbers, "lr": lr}.items()}
    rule.check(hyper)
    designs = upcast(x).detach()
    state = rule.init(designs)
    for _ in range(steps):
        step, state = rule.update(-_slope(predict, designs), state, designs, hyper)
        designs = designs + step
    return downcast(designs, x.dtype)


def _slope(predict: Callable[[Tensor], Tensor], designs: Tensor) -> Tensor:
    def total(designs: Tensor) -> Tensor:
        predictions = predict(designs)
        if predictions.shape != designs.shape[:1]:
            wanted = f"shape ({len(designs)},), one a row of x"
            raise ValueError(f"predict(x) must have {wanted}; got {tuple(predictions.shape)}")
        return predictions.sum()

    return torch.func.grad(total)(designs)

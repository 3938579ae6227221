"""Temperatures as dual variables: the robust loss that each is part of, its best value, and a network to predict it."""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor, nn

from minimand._checks import check_class_logits, check_count, check_floating, check_no_nan, check_same_device
from minimand._numerics import downcast, unit, upcast, widest
from minimand.divergences import kl
from minimand.divergences.worst_case import log_weights_within
from minimand.hyper import HyperSpec
from minimand.losses.loss import loss_function, module_of, narrowed, reduce, spec_of
from minimand.losses.score_difference import score_differences, tempered_maximum
from minimand.source import Source, from_paper

TEMPNET = Source(
    "To Cool or not to Cool? Temperature Network Meets Large Foundation Models via DRO",
    "Qiu et al.",
    2024,
    "2404.04575",
)
RHO = HyperSpec(1.0, low=0.0, closed="left")
POSITIVE = HyperSpec(1.0, low=0.0, closed="neither")


@loss_function(TEMPNET, target="class", rho=RHO)
def robust_temperature_loss(
    logits: Tensor,
    target: Tensor,
    tau: float | Tensor,
    rho: float | Tensor = 1.0,
    *,
    reduction: str = "mean",
) -> Tensor:
    """The robust loss at temperature tau: tau ln mean_k e^{d_k / tau} + tau rho,  d_k = s_k - s_y.

    It is tau * cross-entropy(s / tau) + tau (rho - ln C), and ``ldr_loss`` with lam = tau but for tau rho. Least over
    tau it is the worst average of the differences, max {E_p d : KL(p || u) <= rho}, u uniform: learning tau beside the
    scores learns that. The best tau has entropy(softmax(s / tau)) = ln C - rho, whatever the label
    (``optimal_temperature``).

    Args:
        logits: (N, C) scores.
        target: (N,) class indices.
        tau: (N,) temperatures, or one for all: a number or 0-d tensor; in (0, inf).
        rho: a number or 0-d tensor in [0, inf). From ln C on, the best tau is 0.
        reduction: "none" gives (N,), "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or numbers that do not fit.

    Source: Qiu et al. (2024), arXiv:2404.04575; rho is 8 to 10 there for 32,000 to 50,000 classes.

    >>> robust_temperature_loss(torch.zeros(1, 4), torch.tensor([0]), tau=2.0, rho=0.5)  # nothing to choose: tau rho
    tensor(1.)
    """
    logits, target = check_class_logits(logits, target)
    scores = upcast(logits)
    rho = spec_of(robust_temperature_loss).hyper("rho", rho, like=scores)
    warmth = _temperatures("tau", tau, scores)
    loss = tempered_maximum(score_differences(scores, target), warmth) + warmth * rho
    return narrowed(reduce(loss, reduction), logits.dtype)


@from_paper(TEMPNET)
def optimal_temperature(logits: Tensor, rho: float | Tensor = 1.0, tau_min: float = 0.01) -> Tensor:
    """The tau >= tau_min that minimises ``robust_temperature_loss``, for any label: KL(softmax(s / tau) || u) = rho.

    tau_min where even the coldest softmax lies within rho of uniform: rho >= ln C - ln(how many scores tie for the
    largest).

    Args:
        logits: (..., C) scores.
        rho: a number or 0-d tensor in (0, inf).
        tau_min: a number in (0, inf).

    Returns:
        (...), in the type of ``logits`` and differentiable in them, with which it scales.

    Raises:
        ValueError, TypeError: for shapes, types or numbers that do not fit, and NaN.

    Source: Qiu et al. (2024), arXiv:2404.04575; solved to rounding, through the weights that attain
    ``kl.robust_expectation``.

    >>> logits = torch.tensor([[0.0, 1.0, 4.0]])
    >>> kl(logits / optimal_temperature(logits, rho=0.1), torch.zeros(1, 3))
    tensor([0.1000])
    """
    logits = check_floating("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., C) with C >= 1; got {tuple(logits.shape)}")
    check_no_nan("logits", logits)
    POSITIVE.check("rho", rho)
    POSITIVE.check("tau_min", tau_min)
    scores = widest(logits)
    radius = spec_of(robust_temperature_loss).hyper("rho", rho, like=scores)
    log_q = torch.full_like(scores, -log(scores.shape[-1]))
    log_p = log_weights_within(kl, scores, log_q, radius)
    inside = (log_p > -inf).all(-1) | log_p.isnan().any(-1)
    log_p = torch.where(inside[..., None], log_p, 0)
    # ln p is s / tau up to a constant: their covariance with p - u over each other leaves tau
    weight = log_p.exp() - 1 / scores.shape[-1]
    gain, cost = (weight * scores).sum(-1), (weight * log_p).sum(-1)
    sloped = inside & ~(cost <= 0)
    tau = torch.where(sloped, gain / torch.where(sloped, cost, 1), tau_min)
    return downcast(torch.where(tau < tau_min, tau_min, tau), logits.dtype)


@loss_function(TEMPNET, target="embeddings", rho=RHO)
def contrastive_temperature_loss(
    similarity: Tensor, tau_row: Tensor, tau_col: Tensor, rho: float | Tensor = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """``robust_temperature_loss`` of pairs, both ways: each row and each column of similarities has its temperature.

    tau_i ln mean_{j != i} e^{(S_ij - S_ii) / tau_i} + tau_i rho over row i, and the same over column i.

    Args:
        similarity: S (N, N) with the pairs on the diagonal, N >= 2.
        tau_row: (N,) temperatures of the rows, or one for all: a number or 0-d tensor; in (0, inf).
        tau_col: those of the columns.
        rho: a number or 0-d tensor in [0, inf), below ln(N - 1) if the temperatures are learnt.
        reduction: "none" gives (N,), row and column i together; "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Qiu et al. (2024), arXiv:2404.04575: rho 7 to 8 and temperatures in [0.005, 0.05] there. The authors' code
    estimates the sum over all of the training set by a moving average; here it is the batch's.

    >>> contrastive_temperature_loss(torch.eye(2), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), rho=0.4)
    tensor(-1.6000)
    """
    similarity = check_floating("similarity", similarity)
    count = len(similarity) if similarity.ndim else 0
    if similarity.shape != (count, count) or count < 2:
        raise ValueError(f"similarity must have shape (N, N) with N >= 2; got {tuple(similarity.shape)}")
    scores = upcast(similarity)
    rho = spec_of(contrastive_temperature_loss).hyper("rho", rho, like=scores)
    loss = torch.zeros_like(scores[0])
    for name, given, table in (("tau_row", tau_row, scores), ("tau_col", tau_col, scores.T)):
        tau = _temperatures(name, given, scores)
        difference = table - table.diagonal()[:, None]
        # without the diagonal: all but the first entry, cut into rows that end in one
        others = difference.reshape(-1)[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
        loss = loss + tempered_maximum(others, tau) + tau * rho
    return narrowed(reduce(loss, reduction), similarity.dtype)


def _temperatures(name: str, tau: float | Tensor, scores: Tensor) -> Tensor:
    """``tau`` as (N,) positive numbers in the type of ``scores`` (N, C)."""
    count = len(scores)
    if not isinstance(tau, Tensor):
        POSITIVE.check(name, tau)
        return torch.full((count,), float(tau), dtype=scores.dtype, device=scores.device)
    check_floating(name, tau)
    if tau.shape not in ((), (count,)):
        raise ValueError(f"{name} must be a number or have shape ({count},); got {tuple(tau.shape)}")
    check_same_device(scores=scores, **{name: tau})
    POSITIVE.check(name, tau)
    return tau.to(scores.dtype).expand(count)


@from_paper(TEMPNET)
class TemperatureNet(nn.Module):
    """A small network that predicts a temperature from scores or embeddings, (..., K) -> (...).

    z = W_2 dropout(sigmoid(W_1 x / |x|)),   p = softmax(z / e^phi)
    tau = tau_min + (tau_max - tau_min) sigmoid(w'((p - 1/m) * z) + b),   m hidden units

    The shape of the last layer is that of the optimal temperature, with m prototypes z for the K scores; w = 1 and
    b = phi = 0 at the start. It reads its inputs detached: a loss on its answer trains the network alone.

    Without lengths it cannot see that the best temperature scales with the scores: leave them in
    (``normalise=False``) where they differ much in size.

    Args:
        num_inputs: K.
        hidden: m.
        tau_min, tau_max: the range of the answers, 0 < tau_min < tau_max.
        dropout: the probability with which a hidden unit is left out in training, in [0, 1).
        normalise: whether inputs are brought to length 1.

    Raises:
        ValueError, TypeError: for numbers or inputs that do not fit.

    Source: Qiu et al. (2024), arXiv:2404.04575. The authors' variant for contrastive learning, which also normalises
    prototypes and starts at phi = ln 0.01, is not this one.

    >>> net = TemperatureNet(num_inputs=10, tau_min=0.5, tau_max=5.0)
    >>> bool((net(torch.randn(3, 10)) > 0.5).all())
    True
    """

    def __init__(
        self,
        num_inputs: int,
        hidden: int = 256,
        tau_min: float = 0.01,
        tau_max: float = 2.0,
        dropout: float = 0.5,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        for name, value in {"num_inputs": num_inputs, "hidden": hidden}.items():
            check_count(name, value)
        POSITIVE.check("tau_min", tau_min)
        HyperSpec(2.0, low=tau_min, closed="neither").check("tau_max", tau_max)
        HyperSpec(0.5, low=0.0, high=1.0, closed="left").check("dropout", dropout)
        self.tau_min, self.tau_max, self.normalise = tau_min, tau_max, normalise
        self.project = nn.Sequential(
            nn.Linear(num_inputs, hidden), nn.Sigmoid(), nn.Dropout(dropout), nn.Linear(hidden, hidden)
        )
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.read = nn.Linear(hidden, 1)
        nn.init.ones_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The temperatures (...) of ``inputs`` (..., K), in their type."""
        inputs = check_floating("inputs", inputs)
        size = self.project[0].in_features
        if inputs.ndim == 0 or inputs.shape[-1] != size:
            raise ValueError(f"inputs must have shape (..., {size}); got {tuple(inputs.shape)}")
        given = inputs.detach().to(self.read.weight.dtype)
        hidden = self.project(unit(given) if self.normalise else given)
        excess = (hidden / self.log_scale.exp()).softmax(-1) - 1 / hidden.shape[-1]
        warmth = self.read(excess * hidden).squeeze(-1).sigmoid()
        return narrowed(self.tau_min + (self.tau_max - self.tau_min) * warmth, inputs.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"tau_min={self.tau_min!r}, tau_max={self.tau_max!r}, normalise={self.normalise!r}"


RobustTemperatureLoss = module_of(robust_temperature_loss, "RobustTemperatureLoss")
ContrastiveTemperatureLoss = module_of(contrastive_temperature_loss, "ContrastiveTemperatureLoss")

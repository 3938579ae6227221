"""An output layer for very many classes, trained on a spherical loss without ever computing a score of most of them."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor, nn

from minimand._checks import check_class_logits, check_count, check_floating, check_no_nan, check_same_device
from minimand._numerics import widest
from minimand.losses.loss import LossModule, narrowed
from minimand.losses.spherical import Z_LOSS, SphericalStatistics, ZLoss, charged_by, is_spherical, settled
from minimand.source import from_paper

FACTORED = replace(Z_LOSS, where="the factored output layer of Vincent et al. (2014), arXiv:1412.7091")

CHUNK = 1 << 16  # rows that are worked on at once in float64


@from_paper(FACTORED)
class SphericalOutput(nn.Module):
    """Linear scores s = W h of D classes, whose exact step on a spherical loss costs nothing that grows with D.

    W = V U + 1 (zeta + mu)',   V (D, d),  U (d, d),  mu the mean row of W,  V U + 1 zeta' of mean row 0.

    The mean score is mu'h, the variance h'G h / D with G = (W - 1 mu')'(W - 1 mu'), the label's lead (U'v_y + zeta)'h.
    With S = diag(lr 2 dL/dvariance / D) and M = I - H'S H a step on hidden states H (N, d) is

    U <- U M;  U^-1 <- (I + H'(I - S H H')^-1 S H) U^-1;  V_y <- V_y - lr dL/dlead h'U^-1 for the labelled rows alone,

    and the same low-rank changes of zeta, mu and G: O(N d^2 + N^2 d + N^3) in all. It is the step of SGD on W, to
    rounding. Only SGD: momentum or Adam would move every row.

    U drifts away from the identity, and V's rounding grows with its condition. ``refactor`` makes W dense and U the
    identity again, at O(D d^2); a step does so by itself where |U| |U^-1| / d (Frobenius) passes 1 / eps^(1/3) of V's
    type, 200 in float32: rare, unless the learning rate is too large. U and G are held in float64.

    The layer has no bias: a hidden unit that is always 1 is one. Its tensors are buffers, which no optimizer touches
    and ``loss_and_step`` changes in place: that is not for ``torch.compile`` or ``vmap``.

    Args:
        num_features: d, the size of a hidden state.
        num_classes: D.
        loss: the module of a spherical loss, with its numbers and "mean" or "sum" as reduction; ``ZLoss()`` if None.

    Raises:
        ValueError, TypeError: for sizes, losses or inputs that do not fit.

    Source: de Brébisson and Vincent (2016), arXiv:1604.08859, and Vincent et al. (2014), arXiv:1412.7091. The paper
    tracks sums and sums of squares; mean and variance are tracked here, which do not cancel. Where the rows'
    rounding grows, all of U is put back at once.

    >>> from minimand.losses import OneHotSquaredError
    >>> layer = SphericalOutput(2, 3, OneHotSquaredError(reduction="sum"))
    >>> layer.load_weight(torch.zeros(3, 2))
    >>> hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> layer.loss_and_step(hidden, torch.tensor([0]), lr=0.1)  # (0 - 1)^2 + 0 + 0
    tensor(1., grad_fn=<...>)
    >>> layer.weight  # row 0 less 0.1 * 2 (0 - 1) h
    tensor([[0.2000, 0.4000],
            [0.0000, 0.0000],
            [0.0000, 0.0000]])
    """

    rows: Tensor
    factor: Tensor
    inverse: Tensor
    gram: Tensor
    mean: Tensor
    shift: Tensor

    def __init__(self, num_features: int, num_classes: int, loss: LossModule | None = None) -> None:
        super().__init__()
        for name, value in {"num_features": num_features, "num_classes": num_classes}.items():
            check_count(name, value)
        loss = ZLoss() if loss is None else loss
        if not is_spherical(loss):
            raise TypeError(f"loss must be the module of a spherical loss, such as ZLoss(); got {type(loss).__name__}")
        if loss.options["reduction"] == "none":
            raise ValueError("loss must have the reduction 'mean' or 'sum'; got 'none'")
        self.loss = loss
        self.register_buffer("rows", torch.empty(num_classes, num_features))
        small = widest(torch.zeros(num_features, num_features))
        for name in ("factor", "inverse", "gram"):
            self.register_buffer(name, small.clone())
        for name in ("mean", "shift"):
            self.register_buffer(name, small[0].clone())
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights anew, uniform in +-1 / sqrt(d), as those of ``torch.nn.Linear``."""
        bound = self.rows.shape[1] ** -0.5
        self.rows.uniform_(-bound, bound)
        self._unit_factor()

    @property
    def weight(self) -> Tensor:
        """W (D, d), computed anew: O(D d^2)."""
        return torch.cat([self._dense(rows) for rows in self.rows.split(CHUNK)])

    @torch.no_grad()
    def load_weight(self, weight: Tensor) -> None:
        """Take ``weight`` (D, d) as W."""
        check_floating("weight", weight)
        if weight.shape != self.rows.shape:
            raise ValueError(f"weight must have shape {tuple(self.rows.shape)}; got {tuple(weight.shape)}")
        self.rows.copy_(weight)
        self._unit_factor()

    @torch.no_grad()
    def refactor(self) -> None:
        """The same W with U = I, and what is tracked of it computed anew; O(D d^2)."""
        for rows in self.rows.split(CHUNK):
            rows.copy_(self._dense(rows))
        self._unit_factor()

    def forward(self, hidden: Tensor) -> Tensor:
        """The scores (N, D) of hidden states (N, d), for predictions: this does grow with D."""
        wide = self._checked(hidden).to(torch.promote_types(hidden.dtype, self.rows.dtype))
        inner, outer = wide @ self.factor.to(wide).T, wide @ (self.mean + self.shift).to(wide)
        return narrowed(inner @ self.rows.to(wide).T + outer[:, None], hidden.dtype)

    def loss_and_step(self, hidden: Tensor, target: Tensor, lr: float) -> Tensor:
        """The loss of hidden states (N, d) and class indices (N,), and one step of SGD on W with rate ``lr``.

        The loss and its gradient in ``hidden``, which ``backward`` hands on, are those from before the step.
        """
        wide = widest(self._checked(hidden).detach()).to(self.gram.dtype)
        check_no_nan("hidden", hidden)  # it would spread to every class
        target = self._checked_target(hidden, target)
        if not (lr >= 0 and isfinite(lr)):
            raise ValueError(f"lr must be a number in [0, inf); got {lr}")
        labelled = self.rows[target].to(wide) @ self.factor + self.shift  # the labels' rows less the mean row
        through = wide @ self.gram
        mean, variance = wide @ self.mean, (through * wide).sum(1).clamp(min=0) / len(self.rows)
        variance = settled(variance, mean, hidden.dtype)
        given = [each.requires_grad_() for each in (mean, variance, (labelled * wide).sum(1))]
        with torch.enable_grad():
            loss = charged_by(self.loss, SphericalStatistics(given[0], given[1], given[2], len(self.rows)))
            slopes = torch.autograd.grad(loss, given, materialize_grads=True)
        by_mean, by_variance, by_lead = slopes[0][:, None], slopes[1][:, None], slopes[2][:, None]
        gradient = by_mean * self.mean + 2 / len(self.rows) * by_variance * through + by_lead * labelled
        with torch.no_grad():
            self._step(wide, target, labelled, lr * by_mean, lr * by_variance, lr * by_lead)
        value = narrowed(loss.detach(), hidden.dtype)
        return value + ((hidden - hidden.detach()) * narrowed(gradient, hidden.dtype)).sum()

    def _step(
        self, hidden: Tensor, target: Tensor, labelled: Tensor, by_mean: Tensor, by_variance: Tensor, by_lead: Tensor
    ) -> None:
        """W <- W - 1 by_mean'H / D - (W - 1 mu')H'S H - (Y - 1 1'/D) diag(by_lead) H, Y the labels' one-hot columns."""
        count = len(self.rows)
        pull, push = 2 / count * by_variance, by_lead * hidden

        def shrunk(matrix: Tensor) -> Tensor:
            return matrix - hidden.T @ (pull * (hidden @ matrix))

        cross = shrunk(labelled.T @ push)
        alike = (target[:, None] == target).to(hidden) - 1 / count
        self.gram.copy_(shrunk(shrunk(self.gram).T) - cross - cross.T + push.T @ alike @ push)
        self.mean.sub_((by_mean * hidden).sum(0) / count)
        self.shift.copy_(shrunk(self.shift[:, None])[:, 0] + push.sum(0) / count)

        factor = shrunk(self.factor.T).T
        small = torch.eye(len(hidden)).to(hidden) - pull * (hidden @ hidden.T)
        inverse = self.inverse + hidden.T @ torch.linalg.solve_ex(small, pull * (hidden @ self.inverse))[0]
        held = bool(factor.norm() * inverse.norm() <= len(factor) * torch.finfo(self.rows.dtype).eps ** (-1 / 3))
        if not held:  # or M has no inverse at all: U goes into V
            for rows in self.rows.split(CHUNK):
                rows.copy_(rows.to(factor) @ factor)
            factor = inverse = torch.eye(len(factor)).to(factor)
        self.factor.copy_(factor)
        self.inverse.copy_(inverse)
        self.rows.index_add_(0, target, (push @ inverse).to(self.rows.dtype), alpha=-1)
        if not held:
            self.refactor()

    def _dense(self, rows: Tensor) -> Tensor:
        """Rows of W from rows of V."""
        return (rows.to(self.factor) @ self.factor + (self.mean + self.shift)).to(rows.dtype)

    def _unit_factor(self) -> None:
        """U = I, and the rest from V = W."""
        count = len(self.rows)
        for matrix in (self.factor, self.inverse):
            matrix.copy_(torch.eye(len(matrix)))
        self.mean.copy_(torch.stack([rows.to(self.mean).sum(0) for rows in self.rows.split(CHUNK)]).sum(0) / count)
        self.shift.copy_(-self.mean)
        self.gram.zero_()
        for rows in self.rows.split(CHUNK):
            centred = rows.to(self.mean) - self.mean
            self.gram.add_(centred.T @ centred)

    def _checked(self, hidden: Tensor) -> Tensor:
        hidden = check_floating("hidden", hidden)
        if hidden.ndim != 2 or hidden.shape[1] != self.rows.shape[1]:
            raise ValueError(f"hidden must have shape (N, {self.rows.shape[1]}); got {tuple(hidden.shape)}")
        check_same_device(rows=self.rows, hidden=hidden)
        return hidden

    def _checked_target(self, hidden: Tensor, target: Tensor) -> Tensor:
        # a view in which every row is one number: logits by shape, that cost nothing
        return check_class_logits(hidden.detach().new_zeros(()).expand(len(hidden), len(self.rows)), target)[1]

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return f"num_features={self.rows.shape[1]}, num_classes={len(self.rows)}"

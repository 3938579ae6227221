"""Isotonic calibration: the best increasing function of each class's probability, whatever its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minimand._checks import check_count, check_indices, check_no_nan
from minimand.calibration.maps import checked_logits
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

ISOTONIC = Source(
    "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", "Zadrozny and Elkan", 2002
)

LEAST = float(torch.finfo(torch.float32).eps)  # what a frequency of 0 counts as: its logarithm is finite


@from_paper(ISOTONIC)
class IsotonicCalibration(nn.Module):
    """Each class's probability through an increasing step-and-ramp function of its own; then rows sum to 1 again.

    q_k = f_k(p_k),   f_k = argmin over increasing f of sum_i (f(p_ik) - 1[y_i = k])^2,   answer ln(q_k / sum_j q_j)

    It needs more rows than a temperature does (a thousand rather than a hundred), may change the predicted class, and
    makes ties. A q_k under 1.2e-7 counts as that.

    Args:
        num_classes: C.

    Source: Zadrozny and Elkan (2002). ``fit`` calls scikit-learn; what is fitted needs only torch.

    >>> IsotonicCalibration(2)(torch.tensor([[0.0, 0.0]])).exp()  # before it is fitted: the softmax
    tensor([[0.5000, 0.5000]])
    """

    knots: Tensor
    values: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        self.register_buffer("knots", torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(num_classes, 1))
        self.register_buffer("values", self.knots.clone())

    def fit(self, logits: Tensor, labels: Tensor) -> IsotonicCalibration:
        """Fit every class's function to logits (N, C) and class indices (N,); returns itself."""
        from sklearn.isotonic import IsotonicRegression

        scores = checked_logits(logits, len(self.knots)).detach().double()
        labels = check_indices("labels", labels, len(self.knots), "class", logits, "logits")
        check_no_nan("logits", logits)
        if len(logits) == 0:
            raise ValueError("logits must have at least one row to fit to; got none")
        probs = scores.softmax(1).cpu().numpy()
        found = []
        for k, column in enumerate(probs.T):
            each = IsotonicRegression(y_min=0.0, y_max=1.0).fit(column, (labels == k).double().cpu().numpy())
            found.append((torch.from_numpy(each.X_thresholds_), torch.from_numpy(each.y_thresholds_)))
        most = max(len(knots) for knots, _ in found)
        device = self.knots.device
        self.knots, self.values = (
            torch.stack([_lengthened(pair[i].double(), most) for pair in found]).to(device) for i in (0, 1)
        )
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """Log-probabilities (N, C) in ``logits``'s type."""
        scores = checked_logits(logits, len(self.knots))
        probs = scores.softmax(1).T.contiguous()
        knots, values = self.knots.to(probs.dtype), self.values.to(probs.dtype)
        above = torch.searchsorted(knots, probs.detach(), right=True).clamp(1, knots.shape[1] - 1)
        low, high = knots.gather(1, above - 1), knots.gather(1, above)
        first, last = values.gather(1, above - 1), values.gather(1, above)
        width = high - low
        part = ((probs - low) / torch.where(width > 0, width, 1)).clamp(0, 1)
        fitted = (first + part * (last - first)).T.clamp(min=LEAST)
        return narrowed((fitted / fitted.sum(1, keepdim=True)).log(), logits.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"num_classes={len(self.knots)}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Functions have as many knots as they were fitted with: what is loaded says how many."""
        for name in ("knots", "values"):
            if isinstance(found := state_dict.get(prefix + name), Tensor) and len(found) == len(self.knots):
                setattr(self, name, getattr(self, name).new_empty(found.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _lengthened(row: Tensor, size: int) -> Tensor:
    """``row`` with its last entry repeated, ``size`` long and at least 2."""
    return torch.cat([row, row[-1:].expand(max(size, 2) - len(row))])

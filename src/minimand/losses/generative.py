"""Classifiers of features that are counted and not descended: naive Bayes as a linear head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minimand._checks import check_class_logits, check_count, check_floating, check_no_nan, check_same_device
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

GENERATIVE = Source(
    "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications",
    "Zheng et al.",
    2023,
    "2302.02334",
)
LEAST_VARIANCE = 1e-9  # the authors'


@from_paper(GENERATIVE)
class SharedVarianceNaiveBayes(nn.Module):
    """Gaussian naive Bayes whose classes share one variance a feature, so that it is a linear classifier.

    s_k(x) = ln pi_k - 1/2 sum_j (x_j - mu_kj)^2 / v_j,  v_j = sum_k pi_k var_kj + 1e-9

    with pi_k, mu_kj, var_kj the share, means and population variances of class k. What is answered leaves out what
    all classes have alike: logits = x W^T + b,  W_kj = mu_kj / v_j,  b_k = ln pi_k - 1/2 sum_j mu_kj^2 / v_j, whose
    softmax is the posterior. It needs samples in the logarithm of the features' number where logistic regression
    needs them in proportion to it, if every feature tells the classes apart.

    ``partial_fit`` takes the data in batches of any size: counts, means and sums of squares are combined, in any
    order, as if all had come at once. A class that never came has logits of -inf. The module learns by counting
    alone: it has no parameters, and gradients flow to the features.

    Args:
        num_features: d.
        num_classes: K.
        dtype: of the counts and means; float64 counts every one of billions of rows.

    Shape: features (n, d) to logits (n, K), in the features' type.

    Raises:
        ValueError, TypeError: for shapes, types or labels that do not fit, and for logits before any row was seen.

    Source: Zheng et al. (2023), arXiv:2302.02334, in the parametrisation of the authors' code, whose 1e-9 is this one.

    >>> features, target = torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    >>> head = SharedVarianceNaiveBayes(num_features=1, num_classes=2).partial_fit(features, target)
    >>> head(torch.tensor([[3.0]])).softmax(1)  # as far from one mean as from the other
    tensor([[0.5000, 0.5000]])
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, num_features: int, num_classes: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        for name, size in {"num_features": num_features, "num_classes": num_classes}.items():
            check_count(name, size)
        self.num_features, self.num_classes = num_features, num_classes
        self.register_buffer("count", torch.zeros(num_classes, dtype=dtype))
        self.register_buffer("mean", torch.zeros(num_classes, num_features, dtype=dtype))
        self.register_buffer("square", torch.zeros(num_classes, num_features, dtype=dtype))  # sums about the means

    @torch.no_grad()
    def partial_fit(self, features: Tensor, target: Tensor) -> SharedVarianceNaiveBayes:
        """Count in ``features`` (n, d) of classes ``target`` (n,); the module itself is answered."""
        features = self._checked(features)
        check_no_nan("features", features)
        _, target = check_class_logits(features.new_zeros(len(features), self.num_classes), target)
        x = features.to(self.mean.dtype)
        belongs = (target[:, None] == torch.arange(self.num_classes, device=target.device)).to(x.dtype)
        count = belongs.sum(0)
        mean = belongs.T @ x / count.clamp(min=1)[:, None]
        square = belongs.T @ (x - mean[target]).square()
        total = self.count + count
        gap, new = mean - self.mean, (count / total.clamp(min=1))[:, None]
        self.square = self.square + square + gap.square() * new * self.count[:, None]
        self.mean = self.mean + gap * new
        self.count = total
        return self

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """W (K, d) and b (K,) of the logits x W^T + b."""
        total = self.count.sum()
        variance = self.square.sum(0) / total + LEAST_VARIANCE
        weight = self.mean / variance
        return weight, (self.count / total).log() - (self.mean * weight).sum(1) / 2

    def forward(self, features: Tensor) -> Tensor:
        """Logits (n, K) of ``features`` (n, d)."""
        features = self._checked(features)
        if self.count.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(self.count.any()):
            raise ValueError("features must come after partial_fit has seen rows; got no rows so far")
        weight, bias = self.as_linear()
        return narrowed(features.to(weight.dtype) @ weight.T + bias, features.dtype)

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return f"{self.num_features}, {self.num_classes}"

    def _checked(self, features: Tensor) -> Tensor:
        features = check_floating("features", features)
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(f"features must have shape (n, {self.num_features}); got {tuple(features.shape)}")
        check_same_device(module=self.mean, features=features)
        return features

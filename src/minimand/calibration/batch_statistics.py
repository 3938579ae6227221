"""Batch normalisation at test time, between the statistics of the training data and those of the batch at hand."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from minimand._checks import check_count, check_floating
from minimand._numerics import upcast
from minimand.calibration.maps import checked_logits
from minimand.hyper import HyperSpec, Uniform
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

ALPHA_BN = Source("Test-time Batch Statistics Calibration for Covariate Shift", "You et al.", 2021, "2110.04065")

SOURCE_WEIGHT = HyperSpec(0.9, low=0.0, high=1.0, search=Uniform(0.0, 1.0))


@from_paper(ALPHA_BN)
class MixedBatchNorm(nn.Module):
    """Batch normalisation by a mixture of running and batch statistics, alike in training and in evaluation.

    mu = a mu_s + (1 - a) mu_t,   var = a var_s + (1 - a) var_t,   (x - mu) / sqrt(var + eps) * weight + bias

    s: the running statistics of the source, which stay as they are; t: the batch, its variance over n, not n - 1.
    a = 1 is a batch norm in evaluation, a = 0 one in training. Gradients flow through the batch's statistics.

    Args:
        num_features: C.
        source_weight: a, in [0, 1].
        eps: as in ``torch.nn.BatchNorm1d``.
        affine: whether there are ``weight`` and ``bias``.

    Source: You et al. (2021), arXiv:2110.04065, alpha-BN, where a = 0.9 serves well; that it is the paper's default
    could not be confirmed.

    >>> norm = MixedBatchNorm(1, source_weight=0.5, eps=0.0)  # running mean 0, variance 1
    >>> norm(torch.tensor([[0.0], [2.0]])).flatten()  # mean 1 and variance 1 of the batch: 0.5 and 1
    tensor([-0.5000,  1.5000], grad_fn=<ViewBackward0>)
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, source_weight: float = 0.9, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        check_count("num_features", num_features)
        SOURCE_WEIGHT.check("source_weight", source_weight)
        self.num_features, self.source_weight, self.eps = num_features, source_weight, eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @classmethod
    def of(cls, norm: _BatchNorm, source_weight: float) -> MixedBatchNorm:
        """One with the parameters and buffers of ``norm`` themselves, under their names."""
        made = cls(norm.num_features, source_weight, norm.eps, affine=False)
        made.weight, made.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(made, name, getattr(norm, name))
        return made.train(norm.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` (N, C) or (N, C, ...) normalised, in their type; each channel needs a value."""
        x = upcast(check_floating("inputs", inputs))
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"inputs must have shape (N, {self.num_features}, ...); got {tuple(inputs.shape)}")
        if x.numel() == 0:
            raise ValueError(f"inputs must have at least one value a channel; got shape {tuple(inputs.shape)}")
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, self.num_features, *[1] * (x.ndim - 2)]
        a = self.source_weight
        batch_mean = x.mean(dims)
        batch_var = (x - batch_mean.view(shape)).square().mean(dims)
        mean = a * self.running_mean.to(x.dtype) + (1 - a) * batch_mean
        var = a * self.running_var.to(x.dtype) + (1 - a) * batch_var
        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.to(x.dtype)
        normalised = (x - mean.view(shape)) * scale.view(shape)
        if self.bias is not None:
            normalised = normalised + self.bias.to(x.dtype).view(shape)
        return narrowed(normalised, inputs.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        affine = self.weight is not None
        return f"{self.num_features}, source_weight={self.source_weight:g}, eps={self.eps:g}, affine={affine}"


@from_paper(ALPHA_BN)
def mix_batchnorm_statistics(model: nn.Module, source_weight: float = 0.9) -> nn.Module:
    """A copy of ``model`` whose every batch norm is a :class:`MixedBatchNorm`; ``model`` stays as it is.

    The copy takes the same state_dict. To adapt it online, train its norms' ``weight`` and ``bias`` on
    ``class_correlation_loss``.

    Args:
        model: with ``torch.nn.BatchNorm1d``, 2d, 3d or ``SyncBatchNorm`` at any depth, or one itself.
        source_weight: in [0, 1], how much the running statistics count against the batch's. The more a batch is of
            one class, or the smaller, the more they should; for large mixed batches from elsewhere the less.

    Raises:
        ValueError: where there is no batch norm, or one without running statistics.

    Source: You et al. (2021), arXiv:2110.04065, alpha-BN.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    >>> mix_batchnorm_statistics(model, source_weight=0.5)[1]
    MixedBatchNorm(4, source_weight=0.5, eps=1e-05, affine=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    SOURCE_WEIGHT.check("source_weight", source_weight)
    root = nn.ModuleDict({"model": deepcopy(model)})
    mixed: dict[_BatchNorm, MixedBatchNorm] = {}  # a norm that stands in two places stays one
    for path, parent in list(root.named_modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _BatchNorm):
                continue
            if child.running_mean is None or child.running_var is None:
                where = f"{path}.{name}".removeprefix(".").removeprefix("model").removeprefix(".") or "the top"
                raise ValueError(
                    "model must keep running statistics in every batch norm; "
                    f"got a {type(child).__name__} without at {where!r}"
                )
            if child not in mixed:
                mixed[child] = MixedBatchNorm.of(child, source_weight)
            setattr(parent, name, mixed[child]) if path else root.update({"model": mixed[child]})
    if not mixed:
        raise ValueError(f"model must hold a batch norm; got none in {type(model).__name__}")
    return root["model"]


@from_paper(ALPHA_BN)
def class_correlation_loss(logits: Tensor) -> Tensor:
    """How much a batch's predictions confuse classes: the mean share of each class's correlation that is with others.

    P = softmax(logits),   R = P^T P,   L = 1/C sum_k sum_{j != k} R_kj / sum_j R_kj,  in [0, 1 - 1/C]

    Rows of P sum to 1, so L = mean_k sum_i w_ik (1 - p_ik) with w_ik = p_ik / sum_i p_ik: certain predictions that
    use all classes give 0. It needs no labels.

    Args:
        logits: (N, C) scores of a batch; the more classes it holds, the better.

    Returns:
        a scalar of ``logits``'s type; 0 for an empty batch.

    Raises:
        ValueError, TypeError: for shapes and types that do not fit.

    Source: You et al. (2021), arXiv:2110.04065, Core. The normalisation of rows could not be confirmed.

    >>> class_correlation_loss(torch.zeros(3, 4))  # undecided: 1 - 1/4
    tensor(0.7500)
    """
    log_p = checked_logits(logits).log_softmax(1)
    weight = log_p.softmax(0)  # over the batch: no class has a mass of 0 to divide by
    others = (weight * -log_p.expm1()).sum() / logits.shape[1]
    return narrowed(others, logits.dtype)

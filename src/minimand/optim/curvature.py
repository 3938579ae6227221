"""Products with matrices of curvature that are never formed, for a function of named parameters.

All are transparent to ``torch.func.vmap``, over vectors or over stacked models, and to ``torch.compile``. For a model
on a data set there is ``CurvatureOperator``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minimand._checks import check_floating, check_tensor
from minimand._numerics import upcast
from minimand.optim.objective import Composite, Objective, Params
from minimand.source import Source, from_paper

SPECTRUM = Source(
    "Empirical Analysis of the Hessian of Over-Parametrized Neural Networks", "Sagun et al.", 2017, "1706.04454"
)


@from_paper(SPECTRUM)
def hvp(objective: Objective, params: Params, vector: Params) -> Params:
    """H v, with H the Hessian of the objective at ``params``: the gradient's derivative along v.

    Forward over reverse: the gradient and its change along v in one sweep, in about the time of four gradients. Where
    PyTorch has no forward derivative of a gradient (its own ``mse_loss``, ``huber_loss``), reverse over reverse.

    Args:
        objective: {name: tensor} -> a scalar.
        params: where the Hessian is taken.
        vector: v, a tensor a parameter, in its shape and type.

    Raises:
        ValueError: a vector that does not match, an objective that is no scalar.

    Source: Pearlmutter (1994), "Fast exact multiplication by the Hessian"; here for Sagun et al. (2017),
    arXiv:1706.04454.

    >>> f = lambda p: p["x"][0] ** 2 * p["x"][1]  # H is [[2 y, 2 x], [2 x, 0]]
    >>> hvp(f, {"x": torch.tensor([3.0, 5.0])}, {"x": torch.tensor([1.0, 0.0])})
    {'x': tensor([10.,  6.])}
    """
    _check_match(params, vector)
    gradient = torch.func.grad(_scalar(objective))
    return _forward_or_reverse(gradient, params, vector)


@from_paper(SPECTRUM)
def ggn_vp(objective: Composite, params: Params, vector: Params) -> Params:
    """J^T L J v: the part of the Hessian with J, the outputs' derivative, on both sides, and L the loss's Hessian.

    What it leaves out is the outputs' own curvature, weighted by the loss's gradient: nothing where the outputs are
    linear in the parameters, and little where every sample is fitted. Where the loss is convex in the outputs it has
    no negative eigenvalue.

    Args:
        objective: a ``Composite``, which knows its outputs.
        params: where the matrix is taken.
        vector: v, a tensor a parameter, in its shape and type.

    Source: Sagun et al. (2017), arXiv:1706.04454, the decomposition of the Hessian.

    >>> f = Composite(lambda p: p["x"] ** 2, lambda out: (out**2).sum())  # J = 2 x and L = 2
    >>> x, v = {"x": torch.tensor([3.0])}, {"x": torch.tensor([1.0])}
    >>> ggn_vp(f, x, v), hvp(f, x, v)  # of x^4: 2 (2 x)^2; 12 x^2
    ({'x': tensor([72.])}, {'x': tensor([108.])})
    """
    _check_composite(objective)
    _check_match(params, vector)
    bend = torch.func.grad(objective.value)
    return _sandwiched(
        objective.outputs, params, vector, lambda outputs, moved: _forward_or_reverse(bend, outputs, moved)
    )


@from_paper(SPECTRUM)
def fisher_vp(logits_fn: Callable[[Params], Tensor], params: Params, vector: Params) -> Params:
    """The mean over predictions of J^T (diag(p) - p p^T) J v, with p their softmax: the Fisher matrix, exactly.

    It is the expectation of g g^T over labels drawn from p, and the Gauss-Newton matrix of the cross-entropy: the
    data's labels do not enter. With those in place of p's, see :func:`empirical_fisher_vp`.

    Args:
        logits_fn: {name: tensor} -> logits (..., C), a prediction a row.
        params: where the matrix is taken.
        vector: v, a tensor a parameter, in its shape and type.

    Source: Sagun et al. (2017), arXiv:1706.04454.

    >>> logits = lambda p: torch.stack([p["x"], torch.zeros_like(p["x"])], -1)
    >>> fisher_vp(logits, {"x": torch.zeros(1)}, {"x": torch.ones(1)})  # p (1 - p)
    {'x': tensor([0.2500])}
    """
    _check_match(params, vector)

    def spread(logits: Tensor, moved: Tensor) -> Tensor:
        check_floating("logits", logits)
        if logits.ndim == 0 or logits.numel() == 0:
            raise ValueError(f"logits must have shape (..., C) of at least one prediction; got {tuple(logits.shape)}")
        share, wide = upcast(logits).softmax(-1), upcast(moved)
        count = logits.numel() // logits.shape[-1]
        return (share * (wide - (share * wide).sum(-1, keepdim=True)) / count).to(moved.dtype)

    return _sandwiched(logits_fn, params, vector, spread)


@from_paper(SPECTRUM)
def empirical_fisher_vp(objective: Composite, params: Params, vector: Params) -> Params:
    """The mean over samples of g_i (g_i . v), with g_i the gradient of a sample's loss, in two sweeps.

    The gradients' second moment, also called the empirical Fisher matrix. It is the Fisher matrix neither in
    expectation nor near a minimum where the model is wrong; see :func:`fisher_vp` for that.

    Args:
        objective: a ``Composite`` whose loss gives one number a sample.
        params: where the gradients are taken.
        vector: v, a tensor a parameter, in its shape and type.

    Source: Sagun et al. (2017), arXiv:1706.04454.

    >>> f = Composite(lambda p: p["x"] * torch.tensor([1.0, 3.0]), lambda out: out)  # gradients 1 and 3
    >>> empirical_fisher_vp(f, {"x": torch.tensor(0.0)}, {"x": torch.tensor(1.0)})  # (1 + 9) / 2
    {'x': tensor(5.)}
    """
    _check_composite(objective)
    _check_match(params, vector)
    return _sandwiched(_losses(objective), params, vector, lambda losses, moved: moved / len(losses))


@from_paper(SPECTRUM)
def gradient_covariance_vp(objective: Composite, params: Params, vector: Params) -> Params:
    """The mean over samples of (g_i - g)((g_i - g) . v), with g_i a sample's gradient and g their mean: gradient noise.

    Over a batch drawn without order from many samples the noise of the batch's gradient has this covariance over the
    number of samples in it.

    Args:
        objective: a ``Composite`` whose loss gives one number a sample.
        params: where the gradients are taken.
        vector: v, a tensor a parameter, in its shape and type.

    Source: Sagun et al. (2017), arXiv:1706.04454.

    >>> f = Composite(lambda p: p["x"] * torch.tensor([1.0, 3.0]), lambda out: out)  # gradients 1 and 3
    >>> gradient_covariance_vp(f, {"x": torch.tensor(0.0)}, {"x": torch.tensor(1.0)})
    {'x': tensor(1.)}
    """
    _check_composite(objective)
    _check_match(params, vector)
    return _sandwiched(_losses(objective), params, vector, lambda losses, moved: (moved - moved.mean()) / len(losses))


def _sandwiched(
    function: Callable[[Params], Tensor], params: Params, vector: Params, middle: Callable[[Tensor, Tensor], Tensor]
) -> Params:
    """J^T middle(value, J v), with J the function's derivative."""

    def moving(params: Params) -> tuple[Any, ...]:
        return torch.func.jvp(function, (params,), (vector,))

    value, pull, *moved = torch.func.vjp(moving, params, has_aux=True)
    return pull(middle(value, *moved))[0]


def _forward_or_reverse(gradient: Callable[[Any], Any], at: Any, along: Any) -> Any:
    """The derivative of a gradient along a direction; its Jacobian is symmetric, so either sweep gives it."""
    try:
        return torch.func.jvp(gradient, (at,), (along,))[1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # an operator without a forward derivative; any other error comes again
        return torch.func.vjp(gradient, at)[1](along)[0]


def _scalar(objective: Objective) -> Objective:
    def checked(params: Params) -> Tensor:
        value = check_tensor("objective(params)", objective(params))
        if value.ndim:
            raise ValueError(f"objective must give a scalar; got shape {tuple(value.shape)}")
        return value

    return checked


def _losses(objective: Composite) -> Callable[[Params], Tensor]:
    return lambda params: objective.per_sample(objective.outputs(params))


def _check_composite(objective: Objective) -> None:
    if not isinstance(objective, Composite):
        raise TypeError(f"objective must be a Composite, which knows its outputs; got {type(objective).__name__}")


def _check_match(params: Params, vector: Params) -> None:
    if vector.keys() != params.keys():
        raise ValueError(f"vector must name {sorted(params)}; got {sorted(vector)}")
    for name, param in params.items():
        given = check_tensor(f"vector[{name!r}]", vector[name])
        if given.shape != param.shape:
            raise ValueError(f"vector[{name!r}] must have shape {tuple(param.shape)}; got {tuple(given.shape)}")
        if given.dtype != param.dtype:
            raise TypeError(f"vector[{name!r}] must be {param.dtype}, as params are; got {given.dtype}")

"""Importances of features that a model is held to: additive attributions, and their distance from a reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minimand._checks import check_count, check_floating, check_range, check_same_device, check_same_shape
from minimand._numerics import upcast
from minimand.divergences import FDivergence, kl
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

FACTORS = Source(
    "Primary and Secondary Factor Consistency as Domain Knowledge to Guide Happiness Computing in Online Assessment",
    "Wu et al.",
    2024,
    "2402.12398",
)
INTEGRATED_GRADIENTS = Source(
    "Axiomatic Attribution for Deep Networks", "Sundararajan, Taly and Yan", 2017, "1703.01365", "equation 1"
)
LEAST_IMPORTANCE = 1e-8  # a feature without any would be infinitely surprising


@from_paper(INTEGRATED_GRADIENTS)
def integrated_gradients(
    function: Callable[[Tensor], Tensor], inputs: Tensor, baseline: Tensor, steps: int = 8
) -> Tensor:
    """phi_j = (x_j - x0_j) times the mean of df/dx_j along the straight line from x0 to x, by the midpoint rule.

    Additive: sum_j phi_j = f(x) - f(x0), as nearly as ``steps`` points integrate. For linear f, w_j (x_j - x0_j) for
    any number of steps. Gradients flow through the attributions to what f is made of; with rectified units those
    second derivatives are 0 almost everywhere, so prefer smooth activations where they are to be descended.

    Args:
        function: of rows (m, d), a number for each (m,); no row's may depend on another row.
        inputs: (n, d).
        baseline: (d,) or (n, d), what an input is compared with: often the mean of the features.
        steps: points on each line, all evaluated at once.

    Returns:
        (n, d) in inputs' type and f's unit. They depend on the features' scale and on the baseline.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365, equation 1.

    >>> integrated_gradients(lambda x: x[:, 0] * x[:, 1], torch.tensor([[2.0, 3.0]]), torch.zeros(2))
    tensor([[3., 3.]])
    """
    inputs = check_floating("inputs", inputs, ndim=2)
    baseline = check_floating("baseline", baseline)
    if baseline.shape not in (inputs.shape, inputs.shape[1:]):
        raise ValueError(
            f"baseline must have shape {tuple(inputs.shape[1:])} or {tuple(inputs.shape)}; got {tuple(baseline.shape)}"
        )
    check_same_device(inputs=inputs, baseline=baseline)
    check_count("steps", steps)
    x, start = upcast(inputs), upcast(baseline).to(upcast(inputs).dtype)
    shares = (torch.arange(steps, dtype=x.dtype, device=x.device) + 0.5) / steps
    points = start + shares[:, None, None] * (x - start)
    slopes = torch.func.grad(lambda rows: _checked_values(function(rows), rows).sum())(points.flatten(0, 1))
    return narrowed((x - start) * slopes.unflatten(0, (steps, -1)).mean(0), inputs.dtype)


@from_paper(FACTORS)
def importance_distribution(attributions: Tensor) -> Tensor:
    """I_j = sum_i |phi_ij| / sum_il |phi_il|: what share of all attributions each feature has.

    Args:
        attributions: (n, d).

    Returns:
        (d,) that sum to 1, in attributions' type; even, without gradient, where nothing is attributed at all.

    Raises:
        ValueError, TypeError: for shapes or types that do not fit.

    Source: Wu et al. (2024), arXiv:2402.12398, which represents factor relations as such a distribution; that it is of
    mean absolute attributions could not be confirmed.

    >>> importance_distribution(torch.tensor([[1.0, -3.0], [1.0, 3.0]]))
    tensor([0.2500, 0.7500])
    """
    attributions = check_floating("attributions", attributions, ndim=2)
    if attributions.shape[1] == 0:
        raise ValueError(f"attributions must have shape (n, d) with d >= 1; got {tuple(attributions.shape)}")
    size = upcast(attributions).abs().sum(0)
    total = size.sum()
    none = total == 0
    share = torch.where(none, 1 / len(size), size / torch.where(none, 1, total))
    return narrowed(share, attributions.dtype)


@from_paper(FACTORS)
def importance_consistency(reference: Tensor, importance: Tensor, divergence: FDivergence = kl) -> Tensor:
    """D(P || I): how far a model's importances I lie from those P that trusted models agree on.

    Added to a task's loss with a weight it holds a network to what simpler models say of the features::

        phi = integrated_gradients(network, inputs, inputs.mean(0))
        loss = mse_loss(network(inputs), target) + 3.0 * importance_consistency(P, importance_distribution(phi))

    Importances under 1e-8 count as that, and both arguments are made to sum to 1.

    Args:
        reference: P (d,), at least 0.
        importance: I (d,), at least 0.
        divergence: D; KL penalises above all a feature that the reference uses and the model does not.

    Returns:
        A scalar in importance's type, in nats for KL.

    Raises:
        ValueError, TypeError: for shapes, types, devices or negative entries.

    Source: Wu et al. (2024), arXiv:2402.12398, who penalise a Kullback-Leibler divergence of importances; its
    direction, its weight and the method of attribution could not be confirmed and are chosen here.

    >>> P, I = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    >>> importance_consistency(P, I)
    tensor(0.2238)
    """
    named = {"reference": reference, "importance": importance}
    for name, value in named.items():
        value = check_floating(name, value, ndim=1)
        if len(value) == 0:
            raise ValueError(f"{name} must have shape (d,) with d >= 1; got (0,)")
        check_range(name, value, 0, torch.finfo(value.dtype).max)
    check_same_shape(**named)
    check_same_device(**named)
    if not isinstance(divergence, FDivergence):
        raise TypeError(f"divergence must be an FDivergence; got {type(divergence).__name__}")
    p, q = (upcast(value).clamp(min=LEAST_IMPORTANCE) for value in (reference, importance))
    return narrowed(divergence.from_log_probs((p / p.sum()).log(), (q / q.sum()).log()), importance.dtype)


def _checked_values(values: Tensor, rows: Tensor) -> Tensor:
    if values.shape != rows.shape[:1]:
        raise ValueError(f"function must give one number a row, ({len(rows)},); got shape {tuple(values.shape)}")
    return values

"""Estimates of the Hessian's diagonal from one product, or one gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from minimand._checks import check_count, check_floating, check_no_nan
from minimand._numerics import upcast
from minimand.optim.curvature import hvp
from minimand.optim.objective import Objective, Params, pullback
from minimand.source import Source, from_paper

SOPHIA = Source(
    "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
    "Liu et al.",
    2023,
    "2305.14342",
)


@from_paper(replace(SOPHIA, where="algorithm 1"))
def hutchinson_diagonal(loss: Objective, params: Params, seed: int, probes: int = 1) -> Params:
    """u * (H u), with H the loss's Hessian and u random signs: the Hessian's diagonal in expectation.

    An entry's variance is the sum of the squares of its row's other entries; averaged over ``probes`` vectors u it is
    that over their number. A diagonal Hessian is met exactly.

    Args:
        loss: {name: tensor} -> a scalar.
        params: where the Hessian is taken.
        seed: of the signs.
        probes: how many vectors u; each costs a Hessian-vector product, about four gradients.

    Returns:
        An estimate a parameter, in its shape, of either sign; of 16-bit parameters in float32.

    Raises:
        TypeError, ValueError: a loss that is no scalar, fewer probes than one.

    Source: Liu et al. (2023), arXiv:2305.14342, algorithm 1, after Hutchinson. The paper draws u from a Gaussian, whose
    variance is larger by twice the square of the entry; with signs the expectation is the same.

    >>> hutchinson_diagonal(lambda p: (p["x"] ** 3).sum(), {"x": torch.tensor([1.0, -2.0])}, seed=0)  # H is diag(6 x)
    {'x': tensor([  6., -12.])}
    """
    check_count("probes", probes)
    generator = _generator(params, seed)
    found = {name: torch.zeros_like(upcast(param)) for name, param in params.items()}
    for _ in range(probes):
        signs = {name: _signs(param, generator) for name, param in params.items()}
        products = hvp(loss, params, signs)
        found = {name: found[name] + upcast(signs[name] * product) / probes for name, product in products.items()}
    return found


@from_paper(replace(SOPHIA, where="algorithm 2"))
def gauss_newton_bartlett_diagonal(logits_fn: Callable[[Params], Tensor], params: Params, seed: int) -> Params:
    """B g^2, with g the gradient of the mean cross-entropy of B predictions with labels drawn from their own softmax.

    In expectation over the labels it is the diagonal of the Gauss-Newton matrix of the mean cross-entropy: by
    Bartlett's identity the gradients of different predictions are uncorrelated, and each one's square has its share
    of that diagonal for its mean. The data's own labels would give another matrix.

    Args:
        logits_fn: {name: tensor} -> logits (..., C), a prediction a row: the class's, or the token's.
        params: where the curvature is taken.
        seed: of the labels.

    Returns:
        An estimate a parameter, in its shape, nowhere negative; of 16-bit parameters in float32.

    Raises:
        TypeError, ValueError: logits that are no (..., C) numbers with C >= 1, that hold NaN, or that are of no
            prediction.

    Source: Liu et al. (2023), arXiv:2305.14342, algorithm 2. The authors' code leaves the factor B to the optimizer.

    >>> logits = lambda p: torch.stack([p["x"], torch.zeros_like(p["x"])], -1)
    >>> gauss_newton_bartlett_diagonal(logits, {"x": torch.zeros(1)}, seed=0)  # (1/2 - label)^2, whatever the label
    {'x': tensor([0.2500])}
    """
    logits, pull = pullback(logits_fn, params)
    check_floating("logits", logits)
    if logits.ndim == 0 or logits.numel() == 0:
        raise ValueError(f"logits must have shape (..., C) of at least one prediction; got {tuple(logits.shape)}")
    check_no_nan("logits", logits)
    rows = upcast(logits).flatten(0, -2) if logits.ndim > 1 else upcast(logits)[None]
    probabilities = rows.softmax(-1)
    labels = torch.multinomial(probabilities, 1, generator=_generator({"logits": logits}, seed))
    residual = probabilities.scatter_add(1, labels, -torch.ones_like(probabilities[:, :1]))
    gradient = pull((residual / len(rows)).reshape(logits.shape).to(logits.dtype))
    return {name: len(rows) * upcast(part).square() for name, part in gradient.items()}


def _generator(like: Params, seed: int) -> torch.Generator:
    device = next(iter(like.values())).device if like else torch.device("cpu")
    return torch.Generator(device).manual_seed(seed)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1, each with probability one half."""
    drawn = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return (2 * drawn - 1).to(like.dtype)

"""A network of one hidden layer, trained a few hidden units at a time by gradient boosting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand._checks import check_choice, check_count, check_floating, check_no_nan, check_same_shape, check_tensor
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

BOOSTED = Source(
    "Sequential Training of Neural Networks with Gradient Boosting", "Emami & Martínez-Muñoz", 2019, "1909.12098"
)
LOSSES = ("squared", "logistic", "softmax")
LARGEST_STEP = 1e3  # of a round, where all samples are so well on their side that a Newton step has no bound
PENALTY = 1e-4  # on half the squared weights of a block, over its number of samples: the authors' code's
SHARE = HyperSpec(1.0, low=0.0, high=1.0, closed="right")

Loss = Literal["squared", "logistic", "softmax"]


@dataclass
class Block:
    """Hidden units that one round adds, W1 (J, d), b1 (J), W2 (outputs, J), b2 (outputs), and their factor."""

    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    factor: float

    def __call__(self, x: Tensor) -> Tensor:
        """What the round adds to the scores, (n, outputs)."""
        return self.factor * _units(self.weights, x)


@from_paper(replace(BOOSTED, where="algorithm 1"))
class BoostedNetwork:
    """Gradient boosting whose weak learners are hidden units; together they are one network, the late ones optional.

    F_0 is constant. A round fits ``block`` logistic units with a linear output to the pseudo-residuals r of half the
    samples by least squares, f, and takes F <- F + shrinkage rho f with rho of ``newton_step`` on all of them.

    ========== ===================== ============================ =================================
    loss       y                     r                            F_0
    ========== ===================== ============================ =================================
    squared    numbers (n,)          y - F                        the mean of y
    logistic   -1 or 1 (n,)          2 y / (1 + exp(2 y F))       ln((1 + mean) / (1 - mean)) / 2
    softmax    classes (n,)          one-hot y - softmax F        0
    ========== ===================== ============================ =================================

    Inputs are standardised inside, and the merged network takes them as they are.

    Args:
        units: hidden units in all, a multiple of ``block``.
        block: hidden units a round.
        shrinkage: nu in (0, 1].
        subsample: the share of samples, in (0, 1], that a block is fitted to.
        loss: as above.
        iterations: L-BFGS iterations a round at most.
        seed: of first weights and subsamples.

    Raises:
        ValueError, TypeError: naming the argument, what it must be and what came; among them a logistic target of one
            class alone, whose F_0 would be infinite.

    Source: Emami & Martínez-Muñoz (2019), arXiv:1909.12098, algorithm 1. As in the authors' code a block's weights
    are penalised by 1e-4 / 2 of their squares' sum over the number of samples.

    >>> x = torch.linspace(-3, 3, 50)[:, None]
    >>> network = BoostedNetwork(units=10, loss="squared").fit(x, x[:, 0].sin())
    >>> bool((network.predict(x) - x[:, 0].sin()).abs().mean() < 0.1)
    True
    >>> network.to_module(blocks=5)  # the first half alone
    Sequential(
      (0): Linear(in_features=1, out_features=5, bias=True)
      (1): Sigmoid()
      (2): Linear(in_features=5, out_features=1, bias=True)
    )
    """

    def __init__(
        self,
        units: int = 200,
        block: int = 1,
        shrinkage: float = 1.0,
        subsample: float = 0.5,
        loss: Loss = "squared",
        iterations: int = 200,
        seed: int = 0,
    ) -> None:
        check_choice("loss", loss, LOSSES)
        for name, value in (("units", units), ("block", block), ("iterations", iterations)):
            check_count(name, value)
        if units % block:
            raise ValueError(f"units must be a multiple of block = {block}; got {units}")
        SHARE.check("shrinkage", shrinkage)
        SHARE.check("subsample", subsample)
        self.units, self.block, self.shrinkage, self.subsample = units, block, shrinkage, subsample
        self.loss, self.iterations, self.seed = loss, iterations, seed
        self.blocks: list[Block] = []

    def fit(self, x: Tensor, y: Tensor) -> BoostedNetwork:
        """Train on x (n, d) and y (n,); what was learnt before is forgotten. Returns itself."""
        x = check_floating("x", x, ndim=2).detach()
        check_no_nan("x", x)
        if len(x) < 2:
            raise ValueError(f"x must hold at least two samples; got {len(x)}")
        self.dtype = x.dtype
        self.center, scale = x.double().mean(0), x.double().std(0, correction=0)
        self.scale = torch.where(scale > 0, scale, 1.0)
        wide = self._standard(x)
        wanted, self.start = self._target(y, len(x))
        generator = torch.Generator().manual_seed(self.seed)
        scores = self.start.expand(len(x), -1)
        size = max(1, round(self.subsample * len(x)))
        self.blocks = []
        for _ in range(self.units // self.block):
            residual = _residual(self.loss, wanted, scores)
            rows = torch.randperm(len(x), generator=generator)[:size].to(x.device)
            weights = _fitted(wide[rows], residual[rows], self.block, self.iterations, generator)
            found = _units(weights, wide)
            rho = float(_newton_step(self.loss, wanted, scores, found))
            self.blocks.append(Block(weights, self.shrinkage * rho))
            scores = scores + self.shrinkage * rho * found
        return self

    def scores(self, x: Tensor, blocks: int | None = None) -> Tensor:
        """F (n,), or (n, C) for softmax, of the first ``blocks`` rounds, all unless given."""
        *_, last = self._staged(x, blocks)
        return last

    def predict(self, x: Tensor, blocks: int | None = None) -> Tensor:
        """Numbers, labels -1 or 1, or classes (n,), of the first ``blocks`` rounds, all unless given."""
        return self._decided(self.scores(x, blocks))

    def staged_predict(self, x: Tensor) -> Iterator[Tensor]:
        """What ``predict`` gives after each round."""
        return (self._decided(scores) for scores in self._staged(x, None))

    def to_module(self, blocks: int | None = None) -> nn.Sequential:
        """The first ``blocks`` rounds as one network (n, d) -> (n, outputs), all unless given.

        Its outputs are predictions for "squared", logits for "softmax", and for "logistic" the logit of y = 1, 2 F.
        """
        kept = self.blocks[: self._count(blocks)]
        factor = 2.0 if self.loss == "logistic" else 1.0
        hidden = nn.Linear(len(self.center), len(kept) * self.block, dtype=self.dtype, device=self.center.device)
        output = nn.Linear(hidden.out_features, len(self.start), dtype=self.dtype, device=self.center.device)
        first = torch.cat([each.weights[0] for each in kept]) / self.scale
        with torch.no_grad():
            hidden.weight.copy_(first)
            hidden.bias.copy_(torch.cat([each.weights[1] for each in kept]) - first @ self.center)
            output.weight.copy_(factor * torch.cat([each.factor * each.weights[2] for each in kept], 1))
            shift = torch.stack([each.factor * each.weights[3] for each in kept]).sum(0)
            output.bias.copy_(factor * (self.start + shift))
        return nn.Sequential(hidden, nn.Sigmoid(), output)

    def _count(self, blocks: int | None) -> int:
        if not self.blocks:
            raise RuntimeError("the network must be fitted first: call fit(x, y)")
        if blocks is None:
            return len(self.blocks)
        if not (isinstance(blocks, int) and 1 <= blocks <= len(self.blocks)):
            raise ValueError(f"blocks must lie in [1, {len(self.blocks)}]; got {blocks!r}")
        return blocks

    def _checked(self, x: Tensor) -> Tensor:
        self._count(None)
        x = check_floating("x", x, ndim=2)
        if x.shape[1] != len(self.center):
            raise ValueError(f"x must have {len(self.center)} columns, as in fit; got {x.shape[1]}")
        return x

    def _standard(self, x: Tensor) -> Tensor:
        return (x.double() - self.center) / self.scale

    def _staged(self, x: Tensor, blocks: int | None) -> Iterator[Tensor]:
        wide = self._standard(self._checked(x))
        scores = self.start.expand(len(x), -1)
        for each in self.blocks[: self._count(blocks)]:
            scores = scores + each(wide)
            yield self._shaped(x, scores)

    def _shaped(self, x: Tensor, scores: Tensor) -> Tensor:
        return (scores if self.loss == "softmax" else scores[:, 0]).to(x.dtype)

    def _decided(self, scores: Tensor) -> Tensor:
        if self.loss == "squared":
            return scores
        return scores.argmax(1) if self.loss == "softmax" else torch.where(scores >= 0, 1, -1)

    def _target(self, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What the formulas take for y, (n, outputs), and F_0 (outputs,)."""
        y = check_tensor("y", y).detach()
        if y.shape != (count,):
            raise ValueError(f"y must have shape ({count},), a target a sample; got {tuple(y.shape)}")
        if self.loss == "softmax":
            wanted = _one_hot("y", y, max(int(y.max()) + 1, 2))
            return wanted, wanted.new_zeros(wanted.shape[1])
        wanted = y.double()[:, None]
        check_no_nan("y", wanted)
        if self.loss == "squared":
            return wanted, wanted.mean(0)
        _check_signs(wanted)
        mean = float(wanted.mean())
        if abs(mean) == 1:
            raise ValueError(f"y must hold both -1 and 1; got {mean:g} alone")
        return wanted, wanted.new_tensor([math.atanh(mean)])


@from_paper(replace(BOOSTED, where="the step of a round"))
def newton_step(loss: Loss, y: Tensor, scores: Tensor, found: Tensor) -> Tensor:
    """rho: how far to go from the scores F along f, by one Newton step on the whole loss.

    squared: 1, since f is a least-squares fit; logistic: sum r f / sum f^2 r (2 y - r) with r = 2 y / (1 + exp(2 y F));
    softmax: sum f (Y - P) / sum f^2 P (1 - P) over samples and classes, with P = softmax F.

    Args:
        loss: "squared", "logistic" or "softmax".
        y: (n,) numbers, -1 or 1, or classes.
        scores: F, (n,), or (n, C) for softmax.
        found: f, as ``scores``.

    Returns:
        A scalar, at most 1000 in size: where F is far on the right side of all samples the quotient has no bound.

    Raises:
        ValueError, TypeError: for a loss, shapes or labels that do not fit.

    Source: Emami & Martínez-Muñoz (2019), arXiv:1909.12098, the step of a round.

    >>> y, f = torch.tensor([1.0, 1.0, -1.0, 1.0]), torch.tensor([0.5, 0.2, -0.4, 0.1])
    >>> newton_step("logistic", y, torch.full((4,), 0.5493061443), f)
    tensor(2.8986)
    """
    check_choice("loss", loss, LOSSES)
    scores = check_floating("scores", scores, ndim=2 if loss == "softmax" else 1)
    found = check_floating("found", found)
    check_same_shape(scores=scores, found=found)
    y = check_tensor("y", y)
    if y.shape != scores.shape[:1]:
        raise ValueError(f"y must have shape ({len(scores)},), a target a row of scores; got {tuple(y.shape)}")
    if loss == "softmax":
        wanted = _one_hot("y", y, scores.shape[1])
        return _newton_step(loss, wanted, scores.double(), found.double()).to(scores.dtype)
    wanted = y.double()[:, None]
    if loss == "logistic":
        _check_signs(wanted)
    return _newton_step(loss, wanted, scores.double()[:, None], found.double()[:, None]).to(scores.dtype)


def _newton_step(loss: str, y: Tensor, scores: Tensor, found: Tensor) -> Tensor:
    if loss == "squared":
        return found.new_ones(())
    slope = _residual(loss, y, scores)
    if loss == "logistic":
        bend = slope * (2 * y - slope)
    else:
        share = scores.softmax(1)
        bend = share * (1 - share)
    along, curved = (found * slope).sum(), (found.square() * bend).sum()
    return along / torch.maximum(curved, along.abs() / LARGEST_STEP).clamp(min=torch.finfo(found.dtype).tiny)


def _residual(loss: str, y: Tensor, scores: Tensor) -> Tensor:
    """The negative gradient of the loss in the scores."""
    if loss == "squared":
        return y - scores
    return 2 * y * torch.sigmoid(-2 * y * scores) if loss == "logistic" else y - scores.softmax(1)


def _one_hot(name: str, classes: Tensor, count: int) -> Tensor:
    """Class indices as rows (n, count) of one 1 each, in float64."""
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"{name} must be integer class indices; got {classes.dtype}")
    wrong = (classes < 0) | (classes >= count)
    if bool(wrong.any()):
        raise ValueError(f"{name} must be class indices in [0, {count}); got {int(classes[wrong][0])}")
    return F.one_hot(classes.long(), count).double()


def _check_signs(y: Tensor) -> None:
    wrong = y.abs() != 1
    if bool(wrong.any()):
        raise ValueError(f"y must be -1 or 1; got {y[wrong][0].item():g}")


def _units(weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
    return F.linear(F.linear(x, weights[0], weights[1]).sigmoid(), weights[2], weights[3])


def _fitted(
    x: Tensor, target: Tensor, units: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden units and their output, least squares to ``target``, from weights drawn as Glorot & Bengio (2010) do."""
    shapes = ((units, x.shape[1]), (units,), (target.shape[1], units), (target.shape[1],))
    fans = (x.shape[1] + units, units + target.shape[1])
    weights = []
    for shape, fan in zip(shapes, (fans[0], fans[0], fans[1], fans[1]), strict=True):
        drawn = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
        weights.append((math.sqrt(2 / fan) * drawn).to(x.device).requires_grad_())
    search = torch.optim.LBFGS(weights, max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        penalty = PENALTY * (weights[0].square().sum() + weights[2].square().sum()) / len(x)
        value = ((_units(tuple(weights), x) - target).square().sum(1).mean() + penalty) / 2
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)  # type: ignore[arg-type]
    first, second, third, fourth = (weight.detach() for weight in weights)
    return first, second, third, fourth

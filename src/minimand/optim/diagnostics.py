"""Which samples a training step pulls apart: pairs of groups whose gradients oppose each other.

``opposing_signals`` finds them in a data set; ``OpposingSignalModel`` is the smallest model in which they make a
training loss spike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from minimand._checks import check_count, check_floating, check_no_nan, check_same_device, check_same_shape
from minimand._numerics import unit, upcast, widest
from minimand.hyper import HyperSpec
from minimand.losses.inner import evaluating
from minimand.optim.objective import Params, flatten, value_and_gradient
from minimand.source import Source, from_paper

OPPOSING = Source(
    "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
    "Rosenfeld & Risteski",
    2023,
    "2311.04163",
    "groups by their change in loss",
)
SHARE = 0.01  # of the samples, in a group
FOLLOWED = 10
STRENGTH = HyperSpec(1.0, low=0.0, closed="neither")
ABSOLUTE = HyperSpec(0.0, low=0.0, closed="left")
SAME_LOSS = 1e-2  # by how much a sample's loss may change with the batch it is computed in, relative to the largest

Batches = Iterable[tuple[Any, Tensor]]  # of (inputs, target); inputs a tensor or a tuple of tensors
SampleLoss = Callable[[Tensor, Tensor], Tensor]


@from_paper(OPPOSING)
def opposing_groups(loss_before: Tensor, loss_after: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """The k samples whose loss rose most over a step, and the k whose loss fell most.

    Args:
        loss_before: (N,), one loss a sample.
        loss_after: (N,), the same samples' after the step.
        k: samples in a group, at most N / 2; a hundredth of N, rounded up, unless given.

    Returns:
        (rise, fall): each (k,) positions, int64, the largest change first. No sample is in both: of equal changes the
        first fall and the last rise.

    Raises:
        TypeError, ValueError: for losses that do not fit or hold NaN, and a k out of range.

    Source: Rosenfeld & Risteski (2023), arXiv:2311.04163: groups by their change in loss over a step.

    >>> opposing_groups(torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.1, 3.0, 0.2, 0.9]), k=1)
    (tensor([1]), tensor([2]))
    """
    check_floating("loss_before", loss_before, ndim=1)
    check_floating("loss_after", loss_after, ndim=1)
    check_same_shape(loss_before=loss_before, loss_after=loss_after)
    check_same_device(loss_before=loss_before, loss_after=loss_after)
    check_no_nan("loss_before", loss_before)
    check_no_nan("loss_after", loss_after)
    k = _group_size(k, len(loss_before))
    order = (upcast(loss_after) - upcast(loss_before)).argsort(stable=True)
    return order[len(order) - k :].flip(0), order[:k]


@from_paper(replace(OPPOSING, where="gradients of the groups"))
def gradient_cosine(loss: Callable[[Params, Any], Tensor], params: Params, a: Any, b: Any) -> Tensor:
    """The cosine between the gradients of the loss on ``a`` and on ``b``: near -1 where the two pull apart.

    Args:
        loss: (params, samples) -> a scalar, such as the mean loss of the samples.
        params: tensors by name, all of whose gradients are taken together.
        a, b: whatever ``loss`` takes as samples.

    Returns:
        0-d, in [-1, 1], in float64; 0 where a gradient is zero.

    Source: Rosenfeld & Risteski (2023), arXiv:2311.04163.

    >>> gradient_cosine(lambda p, x: (p["w"] * x).sum(), {"w": torch.ones(2)}, torch.ones(2), torch.tensor([-1.0, 0.0]))
    tensor(-0.7071, dtype=torch.float64)
    """
    directions = []
    for samples in (a, b):
        _, gradient = value_and_gradient(lambda own, samples=samples: loss(own, samples), params)
        directions.append(unit(flatten({name: widest(part) for name, part in gradient.items()})))
    return (directions[0] * directions[1]).sum().clamp(-1, 1)


@from_paper(OPPOSING)
@dataclass(frozen=True, eq=False)
class OpposingSignals:
    """Two groups of samples that a training step pulled apart, as ``opposing_signals`` finds them.

    Args:
        rise, fall: (k,) positions in the data set of the samples whose loss rose and fell most, the most first.
        before, after: (2,) the mean loss of either group, ``rise`` first, before the step and after it.
        cosine: between the groups' mean gradients before the step; near -1 where signals oppose each other.
        losses: (1 + follow, 2) the groups' mean losses after that step and after each of those that followed.
        correlation: of the groups' changes over the steps that followed, in [-1, 1]; NaN where one never changes.
    """

    rise: Tensor
    fall: Tensor
    before: Tensor
    after: Tensor
    cosine: float
    losses: Tensor
    correlation: float


@from_paper(OPPOSING)
def opposing_signals(
    model: nn.Module,
    loss: SampleLoss,
    batches: Batches,
    step: Callable[[], object],
    k: int | None = None,
    follow: int = FOLLOWED,
) -> OpposingSignals:
    """Find the pair of sample groups that a training step pulls apart, in a data set, and follow them.

    Every sample's loss is taken before and after one ``step()``; the groups are ``opposing_groups`` of these. Then
    ``follow`` more steps are taken. The step by which groups are chosen makes one rise and the other fall, whatever
    the data: it is the cosine, and the correlation over the steps that follow, that tell whether they oppose.

    Args:
        model: called with a batch's inputs. Losses are taken in evaluation mode, and the model is as it was for steps.
        loss: (outputs, target) -> (b,), a loss a sample: ``reduction="none"``.
        batches: the data, (inputs, target) a batch, inputs a tensor or a tuple of tensors; read three times, in the
            same order: a list, or a ``DataLoader`` that does not shuffle. Moved to the model's device.
        step: takes one training step with ``model``, called 1 + ``follow`` times. At the edge of stability, where
            losses spike, the groups show best.
        k: samples in a group; a hundredth of the data, rounded up, unless given.
        follow: steps to follow the groups for, 0 or more.

    Raises:
        TypeError, ValueError: for batches that come only once or in another order, a loss that is not one number a
            sample, and numbers out of range.

    Source: Rosenfeld & Risteski (2023), arXiv:2311.04163.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 0.1)
    >>> x, y = torch.tensor([[-10.0], [10.0], [0.5], [0.6]]), torch.tensor([[2.0], [2.0], [0.5], [0.6]])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    >>> def step():
    ...     optimizer.zero_grad(); nn.functional.mse_loss(model(x), y).backward(); optimizer.step()
    >>> found = opposing_signals(model, lambda z, y: (z - y).square().flatten(), [(x, y)], step, k=1, follow=2)
    >>> found.rise, found.fall, found.cosine  # of the two large inputs with one target
    (tensor([1]), tensor([0]), -1.0)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module; got {type(model).__name__}")
    check_count("follow", follow, least=0)
    start = {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    before = _sample_losses(model, loss, batches)
    k = _group_size(k, len(before))
    step()
    after = _sample_losses(model, loss, batches)
    if len(after) != len(before):
        raise ValueError(f"batches must come as often as they are read; got {len(before)} samples, then {len(after)}")
    rise, fall = opposing_groups(before, after, k)
    pieces = [_rows_of(batches, group) for group in (rise, fall)]
    _check_same_order(model, loss, pieces, [after[group] for group in (rise, fall)])

    def charged(params: Params, rows: Sequence[tuple[Any, Tensor]]) -> Tensor:
        return torch.cat([_per_sample(_call(model, batch, params), batch, loss) for batch in rows]).mean()

    trained = {name: start[name] for name, param in model.named_parameters() if param.requires_grad}
    with evaluating(model):
        cosine = gradient_cosine(lambda own, rows: charged({**start, **own}, rows), trained, *pieces)
    followed = [torch.stack([after[group].mean() for group in (rise, fall)])]
    for _ in range(follow):
        step()
        followed.append(torch.stack([_sample_losses(model, loss, rows).mean() for rows in pieces]))
    losses = torch.stack(followed)
    return OpposingSignals(
        rise,
        fall,
        torch.stack([before[group].mean() for group in (rise, fall)]),
        losses[0],
        float(cosine),
        losses,
        _correlation(*losses.diff(dim=0).unbind(1)),
    )


@from_paper(replace(OPPOSING, where="two-layer linear network"))
@dataclass(frozen=True, eq=False)
class OpposingSignalModel:
    """A two-layer linear network on data with one large feature that two groups use in opposite directions.

    prediction c (b.x + b_o x_o), target beta.x + kappa |x_o|;  E x x^T = I, x_o = +-sqrt(alpha) with equal chances
    loss       |c b - beta|^2 / 2 + alpha c^2 b_o^2 / 2,  the population's above its least value, alpha kappa^2 / 2

    At b_o = 0 the curvature along b_o is alpha c^2. It grows as c does, and gradient descent of rate lr leaves the
    valley once it passes 2 / lr: b_o swings wider at every step, the loss spikes, and c shrinks until it is stable.

    Args:
        alpha: above 0, the opposing feature's variance; large against 1.
        beta: (d,), what is to be learnt of the other features.
        kappa: at least 0, what the target takes of the feature's size, by which its two signs pull in opposite
            directions.

    An objective for parameters ``{"b": (..., d), "b_o": (...), "c": (...)}``: calling it gives losses (...).

    Source: Rosenfeld & Risteski (2023), arXiv:2311.04163. In the spirit of their two-layer linear network, with its
    large feature, absolute value and factor k; their constants and distribution could not be confirmed.

    >>> model = OpposingSignalModel(alpha=20.0, beta=torch.tensor([1.0, 0.0]), kappa=0.1)
    >>> params = {"b": torch.tensor([0.5, 0.0]), "b_o": torch.tensor(0.1), "c": torch.tensor(1.0)}
    >>> model(params)  # 0.25 / 2 + 20 * 0.01 / 2
    tensor(0.2250)
    >>> model.hessian(params).diagonal()  # b twice, b_o: alpha c^2, c: |b|^2 + alpha b_o^2
    tensor([ 1.0000,  1.0000, 20.0000,  0.4500])
    """

    alpha: float
    beta: Tensor
    kappa: float = 0.0

    def __post_init__(self) -> None:
        STRENGTH.check("alpha", self.alpha)
        ABSOLUTE.check("kappa", self.kappa)
        check_floating("beta", self.beta, ndim=1)

    def __call__(self, params: Params) -> Tensor:
        """The loss (...) above its least value."""
        b, b_o, c = self._checked(params)
        return (self._missing(b, c) + self.alpha * (c * b_o).square()) / 2

    def group_losses(self, params: Params) -> Tensor:
        """(..., 2): the whole loss of the samples with x_o > 0 and of those with x_o < 0."""
        b, b_o, c = self._checked(params)
        pulled = torch.stack([c * b_o - self.kappa, c * b_o + self.kappa], -1)
        return (self._missing(b, c)[..., None] + self.alpha * pulled.square()) / 2

    def hessian(self, params: Params) -> Tensor:
        """(..., d + 2, d + 2): the second derivatives in b, b_o and c, in this order."""
        b, b_o, c = self._checked(params)
        dim, one = len(self.beta), c[..., None]
        diagonal = torch.cat(
            [
                one.square().expand(*c.shape, dim),
                self.alpha * one.square(),
                (b.square().sum(-1) + self.alpha * b_o.square())[..., None],
            ],
            -1,
        )
        across = torch.cat([2 * one * b - self.beta.to(b), (2 * self.alpha * c * b_o)[..., None]], -1)
        border = torch.nn.functional.pad(across[..., None], (dim + 1, 0, 0, 1))  # the last column, less its last entry
        return diagonal.diag_embed() + border + border.mT

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Samples: inputs (count, d + 1), Gaussian x and last x_o, and targets (count,)."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, len(self.beta), generator=generator, dtype=self.beta.dtype)
        signs = 2 * torch.randint(2, (count, 1), generator=generator).to(x) - 1
        x_o = math.sqrt(self.alpha) * signs
        inputs = torch.cat([x, x_o], 1).to(self.beta.device)
        return inputs, inputs[:, :-1] @ self.beta + self.kappa * inputs[:, -1].abs()

    def _missing(self, b: Tensor, c: Tensor) -> Tensor:
        """|c b - beta|^2."""
        return (c[..., None] * b - self.beta.to(b)).square().sum(-1)

    def _checked(self, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        missing = {"b", "b_o", "c"} - set(params)
        if missing:
            raise ValueError(f"params must hold b, b_o and c; got {sorted(params)}")
        b, b_o, c = (check_floating(f"params[{name!r}]", params[name]) for name in ("b", "b_o", "c"))
        if b.ndim == 0 or b.shape[-1] != len(self.beta):
            raise ValueError(f"params['b'] must have shape (..., {len(self.beta)}); got {tuple(b.shape)}")
        for name, value in (("b_o", b_o), ("c", c)):
            if value.shape != b.shape[:-1]:
                raise ValueError(f"params[{name!r}] must have shape {tuple(b.shape[:-1])}; got {tuple(value.shape)}")
        return b, b_o, c


def _group_size(k: int | None, count: int) -> int:
    if count < 2:
        raise ValueError(f"losses must be of at least 2 samples, for two groups; got {count}")
    if k is None:
        return math.ceil(SHARE * count)
    return check_count("k", k, most=count // 2)


def _sample_losses(model: nn.Module, loss: SampleLoss, batches: Batches) -> Tensor:
    """(N,): every sample's loss, in evaluation mode, on the model's device."""
    with evaluating(model), torch.no_grad():
        found = [_per_sample(_call(model, batch), batch, loss) for batch in batches]
    return torch.cat(found) if found else torch.zeros(0)


def _call(model: nn.Module, batch: tuple[Any, Tensor], params: Params | None = None) -> Tensor:
    """The model's outputs of a batch, with its own parameters and buffers or others."""
    inputs = batch[0] if isinstance(batch[0], (tuple, list)) else (batch[0],)
    device = _device_of(model)
    moved = tuple(x.to(device) if isinstance(x, Tensor) else x for x in inputs)
    return model(*moved) if params is None else torch.func.functional_call(model, params, moved)


def _per_sample(outputs: Tensor, batch: tuple[Any, Tensor], loss: SampleLoss) -> Tensor:
    """(b,): a loss a sample, in float32 at least."""
    target = batch[1].to(outputs.device)
    found = check_floating("loss(outputs, target)", loss(outputs, target))
    if found.shape != target.shape[:1]:
        wanted = f"(b,) = {tuple(target.shape[:1])}, one number a sample"
        raise ValueError(f"loss(outputs, target) must have shape {wanted}; got {tuple(found.shape)}")
    return upcast(found)


def _rows_of(batches: Batches, group: Tensor) -> list[tuple[Any, Tensor]]:
    """The group's samples, batch by batch: rows of different batches may have different shapes."""
    places = group.sort().values.cpu()
    found: list[tuple[Any, Tensor]] = []
    begin = 0
    for inputs, target in batches:
        rows = places[(places >= begin) & (places < begin + len(target))] - begin
        begin += len(target)
        if len(rows):
            several = isinstance(inputs, (tuple, list))
            taken = tuple(x[rows.to(x.device)] for x in (inputs if several else (inputs,)))
            found.append((taken, target[rows.to(target.device)]))
    return found


def _check_same_order(model: nn.Module, loss: SampleLoss, pieces: Sequence[Batches], losses: Sequence[Tensor]) -> None:
    """The rows picked out in a third reading must be those whose losses were taken in the second."""
    for rows, wanted in zip(pieces, losses, strict=True):
        found = _sample_losses(model, loss, rows)
        near = len(found) == len(wanted) and torch.allclose(
            found.sort().values, wanted.sort().values, rtol=SAME_LOSS, atol=SAME_LOSS * float(wanted.abs().max())
        )
        if not near:
            raise ValueError("batches must come in the same order each time, unshuffled; got other samples")


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, NaN where one side is constant or there are fewer than two."""
    if len(a) < 2:
        return math.nan
    return float(torch.corrcoef(torch.stack([widest(a), widest(b)]))[0, 1])


def _device_of(model: nn.Module) -> torch.device:
    return next((param.device for param in model.parameters()), torch.device("cpu"))

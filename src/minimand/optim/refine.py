"""Learning rate schedules from the gradient norms of a finished run, and the bound that they make small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_floating, check_same_device, is_concrete
from minimand._numerics import downcast, upcast
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

REFINEMENT = Source(
    "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement", "Defazio et al.", 2023, "2310.07831"
)
TAU = HyperSpec(0.1, low=0.0, high=1.0)
POWER = HyperSpec(2.0, low=0.0)
DISTANCE = HyperSpec(1.0, low=0.0)
SORTED_AT_ONCE = 1 << 22  # entries of the windows that medians are taken of
NORMS = {"l2": (2, 2.0), "l1": (1, 1.0)}  # the order of the norm, and the power that goes with it


@from_paper(replace(REFINEMENT, where="refinement by gradient norms"))
def refine_schedule(norms: Tensor, tau: float = 0.1, power: float = 2.0) -> Tensor:
    """The schedule for the next run, from the gradient norms of this one.

    eta_t = w_t sum_{p > t} w_p over its largest value, with w = n^{-power} and n the norms through a median filter. It
    warms up where gradients begin large, and falls towards the end faster than a straight line where they shrink.

    Args:
        norms: (..., T), positive, of the stochastic gradients in order, before any clipping.
        tau: in [0, 1], the filter's width as a share of the run: 2 (int(tau T) // 2) + 1 steps.
        power: 2 with l2 norms, for SGD; 1 with l1 norms, for Adam and its relatives.

    Returns:
        (..., T) multipliers in [0, 1] of the learning rate, the last of them 0. Tune the rate again with them.

    Raises:
        ValueError: norms that are zero, negative, infinite or fewer than two; tau or power out of range.

    Source: Defazio et al. (2023), arXiv:2310.07831, refinement by gradient norms. The filter sees the run's end
    reflected and its first norm repeated. The authors' code divides by another tail sum than their theorem; no
    difference is left after dividing by the largest value.

    >>> refine_schedule(torch.tensor([2.0, 1.0, 1.0]), tau=0.0)  # w is (1/4, 1, 1), with tails (2, 1, 0)
    tensor([0.5000, 1.0000, 0.0000])
    """
    _check_positive("norms", norms)
    TAU.check("tau", tau)
    POWER.check("power", power)
    wide = upcast(norms)
    filtered = _median_filtered(wide, int(tau * norms.shape[-1]) // 2)
    weights = (filtered.amin(-1, keepdim=True) / filtered) ** power  # at most 1: no power of a small norm overflows
    steps = weights * _tail_sums(weights)
    return downcast(steps / steps.amax(-1, keepdim=True), norms.dtype)


@from_paper(replace(REFINEMENT, where="last-iterate theorem"))
def last_iterate_steps(weights: Tensor) -> Tensor:
    """The step sizes eta_t = w_t sum_{p > t} w_p / sum_p w_p under which the last iterate has a bound.

    ``weights`` (..., T), positive; equal ones give linear decay. Source: Defazio et al. (2023), arXiv:2310.07831.

    >>> last_iterate_steps(torch.ones(4))
    tensor([0.7500, 0.5000, 0.2500, 0.0000])
    """
    _check_positive("weights", weights)
    wide = upcast(weights)
    return downcast(wide * (_tail_sums(wide) / wide.sum(-1, keepdim=True)), weights.dtype)


@from_paper(replace(REFINEMENT, where="last-iterate theorem"))
def last_iterate_bound(weights: Tensor, norms: Tensor, distance: float) -> Tensor:
    """How far f may be above its minimum at the last point of a subgradient method on a convex f.

    f(x_T) - f* <= (D^2 + sum_t w_t^2 ||g_t||^2) / (2 sum_t w_t), for x_{t+1} = x_t - eta_t g_t with the step sizes of
    ``last_iterate_steps(weights)``. In expectation, where gradients are stochastic.

    Args:
        weights: (..., T), positive.
        norms: (..., T), the gradients' l2 norms.
        distance: D, at least that of the start from a minimiser.

    Returns:
        (...), in units of f.

    Source: Defazio et al. (2023), arXiv:2310.07831.

    >>> last_iterate_bound(torch.full((4,), 0.5), torch.ones(4), distance=1.0)  # w = D / (G sqrt T): D G / sqrt T
    tensor(0.5000)
    """
    _check_positive("weights", weights)
    check_floating("norms", norms)
    if norms.shape != weights.shape:
        raise ValueError(f"norms must have weights's shape {tuple(weights.shape)}; got {tuple(norms.shape)}")
    check_same_device(weights=weights, norms=norms)
    DISTANCE.check("distance", distance)
    wide = upcast(weights)
    bound = (distance**2 + (wide * upcast(norms)).square().sum(-1)) / (2 * wide.sum(-1))
    return downcast(bound, weights.dtype)


@from_paper(REFINEMENT)
class ScheduleRecorder:
    """Collects the gradient norms of a run with any ``torch.optim`` optimizer, for the schedule of the next.

    Every ``optimizer.step()`` records the norm of all gradients together, as it finds them. Where they are clipped,
    call ``record()`` between ``backward()`` and the clipping; the step then records nothing of its own. Norms stay on
    the gradients' device until they are asked for.

    Args:
        optimizer: the run's. Not one that calls a closure for its gradients.
        norm: ``"l2"`` for SGD, ``"l1"`` for Adam and its relatives.

    Source: Defazio et al. (2023), arXiv:2310.07831.

    >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
    >>> optimizer = torch.optim.SGD([weight], lr=0.25)
    >>> recorder = ScheduleRecorder(optimizer)
    >>> for _ in range(3):
    ...     optimizer.zero_grad(); weight.square().sum().backward(); optimizer.step()
    >>> recorder.norms
    tensor([4., 2., 1.])
    >>> schedule = recorder.schedule(tau=0.0)
    >>> scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    >>> [schedule(step) for step in range(4)]  # w is (1/16, 1/4, 1), with tails (5/4, 1, 0)
    [0.3125, 1.0, 0.0, 0.0]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, norm: Literal["l2", "l1"] = "l2") -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}")
        check_choice("norm", norm, NORMS)
        self.optimizer, self.norm = optimizer, norm
        self._norms: list[Tensor] = []
        self._is_recorded = False
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    @property
    def norms(self) -> Tensor:
        """(T,): the norms so far, on the CPU."""
        return torch.stack([norm.cpu() for norm in self._norms]) if self._norms else torch.zeros(0)

    def record(self) -> None:
        """Record the gradients as they are now, for the step to come."""
        order, _ = NORMS[self.norm]
        grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            raise ValueError("gradients must be there for at least one parameter; got none")
        each = [torch.linalg.vector_norm(upcast(grad.detach()), order) for grad in grads]
        self._norms.append(torch.linalg.vector_norm(torch.stack([norm.to(each[0]) for norm in each]), order))
        self._is_recorded = True

    def schedule(self, tau: float = 0.1) -> Callable[[int], float]:
        """``step -> multiplier`` by ``refine_schedule`` of the norms so far, as ``LambdaLR`` takes it."""
        _, power = NORMS[self.norm]
        return _Multipliers(tuple(refine_schedule(self.norms.double(), tau, power).tolist()))

    def close(self) -> None:
        """Let go of the optimizer: its steps are no longer recorded."""
        self._hook.remove()

    def _before_step(self, *_: Any) -> None:
        if not self._is_recorded:
            self.record()
        self._is_recorded = False


@dataclass(frozen=True)
class _Multipliers:
    """A schedule as a table; its last entry for every step past the end."""

    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        return self.values[min(step, len(self.values) - 1)]


def _median_filtered(values: Tensor, half: int) -> Tensor:
    """(..., T): medians of 2 half + 1 neighbours, the end reflected and the start repeated."""
    if half == 0:
        return values
    last = values.shape[-1]
    before = values[..., :1].expand(*values.shape[:-1], half)
    after = values[..., last - 1 - half : last - 1].flip(-1)
    padded, width = torch.cat([before, values, after], -1), 2 * half + 1
    windows = torch.arange(last, device=values.device)[:, None] + torch.arange(width, device=values.device)
    parts = windows.split(max(SORTED_AT_ONCE // width, 1))
    return torch.cat([padded[..., part].median(-1).values for part in parts], -1)


def _tail_sums(weights: Tensor) -> Tensor:
    """sum_{p > t} w_p for each t, exactly 0 for the last."""
    sums = weights.flip(-1).cumsum(-1).flip(-1)
    return torch.cat([sums[..., 1:], torch.zeros_like(sums[..., :1])], -1)


def _check_positive(name: str, value: Tensor) -> None:
    """Positive finite numbers (..., T), T at least 2."""
    check_floating(name, value)
    if value.ndim < 1 or value.shape[-1] < 2:
        raise ValueError(f"{name} must have shape (..., T) with T >= 2; got {tuple(value.shape)}")
    if is_concrete(value) and value.numel():
        bad = ~((value > 0) & (value < torch.inf))
        if bool(bad.any()):
            where = int(bad.detach().reshape(-1).nonzero()[0])
            got = value.detach().reshape(-1)[where].item()
            raise ValueError(f"{name} must be positive and finite; got {got:g} at flat position {where}")

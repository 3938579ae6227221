"""How a policy that chooses points is trained from the rewards of whole searches, and how rare these rewards are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand._checks import check_count, check_floating, check_same_device, check_same_shape
from minimand._numerics import upcast
from minimand.hyper import HyperSpec
from minimand.losses.loss import narrowed, reduce
from minimand.optim.search.bar_distribution import NEURAL_ACQUISITION
from minimand.source import from_paper

CLIP = HyperSpec(0.15, low=0.0, closed="neither")
SHARE = HyperSpec(0.98, low=0.0, high=1.0)
LARGEST_RATIO = 40.0  # in the exponent: e^40 and its square, of any advantage, fit float32
SUMMED = 10_000  # past it, what the asymptotic form leaves out, 1 / (120 T^4), is nothing in float64
EULER = 0.5772156649015329


@from_paper(NEURAL_ACQUISITION)
def ppo_objective(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float = 0.15) -> Tensor:
    """Proximal policy optimisation, to be minimised: -mean min(r A, clamp(r, 1 - clip, 1 + clip) A).

    r = e^(log_prob - old_log_prob): how much likelier an action has become. Once it is likelier by more than ``clip``
    where that was an advantage, or rarer where it was none, nothing more is gained. Both probabilities are of the same
    set of actions: what was masked when the action was drawn is masked now. Ratios are held at e^40.

    Args:
        log_prob: of the actions taken, under the policy that is trained, any shape, in nats.
        old_log_prob: the same shape, under the policy that took them; a constant.
        advantage: the same shape, A; a constant. Standardise it over the batch.
        clip: above 0.

    Returns:
        a scalar in ``log_prob``'s type; 0 for no actions.

    Raises:
        ValueError, TypeError: for types, shapes, devices or numbers that do not fit.

    Source: Maraval et al. (2023), arXiv:2305.15930, with their clip; the objective is that of Schulman et al. (2017),
    arXiv:1707.06347, equation 7.

    >>> taken = torch.tensor([0.6, 0.6]).log(), torch.tensor([0.5, 0.5]).log()  # both 1.2 times as likely
    >>> ppo_objective(*taken, torch.tensor([1.0, -1.0]))  # -(1.15 - 1.2) / 2
    tensor(0.0250)
    """
    log_prob = check_floating("log_prob", log_prob)
    given = {
        "log_prob": log_prob,
        "old_log_prob": check_floating("old_log_prob", old_log_prob),
        "advantage": check_floating("advantage", advantage),
    }
    check_same_shape(**given)
    check_same_device(**given)
    CLIP.check("clip", clip)
    new, old, advantage = (upcast(value) for value in given.values())
    ratio = (new - old).clamp(max=LARGEST_RATIO).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return narrowed(reduce(-gain, "mean"), log_prob.dtype)


@from_paper(NEURAL_ACQUISITION)
def generalized_advantages(rewards: Tensor, values: Tensor, discount: float = 0.98, trace: float = 0.98) -> Tensor:
    """Advantages of the actions of whole episodes: A_t = sum_k (discount trace)^k d_{t+k}.

    d_t = r_t + discount V_{t+1} - V_t, and nothing is earned after the last step. ``trace=1`` is what came in less what
    was foreseen, ``trace=0`` trusts the forecast of the next state. A_t + V_t is what the forecast is trained on.

    Args:
        rewards: r, (..., T), of the steps of an episode in order.
        values: V, the same shape, forecast at the state before each step.
        discount, trace: in [0, 1].

    Returns:
        (..., T) in the rewards' type.

    Raises:
        ValueError, TypeError: for types, shapes, devices or numbers that do not fit.

    Source: Maraval et al. (2023), arXiv:2305.15930, with their numbers; the estimator is that of Schulman et al.
    (2015), arXiv:1506.02438, equation 16.

    >>> generalized_advantages(torch.ones(3), torch.zeros(3), discount=0.5, trace=1.0)  # 1 + 1/2 + 1/4
    tensor([1.7500, 1.5000, 1.0000])
    """
    rewards, values = check_floating("rewards", rewards), check_floating("values", values)
    if rewards.ndim == 0:
        raise ValueError(f"rewards must have shape (..., T); got {tuple(rewards.shape)}")
    check_same_shape(rewards=rewards, values=values)
    check_same_device(rewards=rewards, values=values)
    for name, value in (("discount", discount), ("trace", trace)):
        SHARE.check(name, value)
    r, v = upcast(rewards), upcast(values)
    surprise = r + discount * F.pad(v[..., 1:], (0, min(1, v.shape[-1]))) - v
    steps = torch.arange(r.shape[-1], device=r.device, dtype=r.dtype)
    later = steps[:, None] - steps  # how many steps after t, a column
    weight = torch.where(later >= 0, (discount * trace) ** later.clamp(min=0), 0)
    return narrowed(surprise @ weight.to(surprise.dtype), rewards.dtype)


@from_paper(NEURAL_ACQUISITION)
def expected_records(steps: int) -> float:
    """How often values in random order are expected to exceed all before them: H_T = 1 + 1/2 + ... + 1/T.

    The t-th of T distinct values is the best so far with probability 1/t. A search that knows nothing yet is rewarded
    for improvements alone about ln T + 0.577 times, however long: why a policy is not trained on such rewards only.

    Args:
        steps: T, at least 1.

    Raises:
        ValueError, TypeError: for no such number.

    Source: Maraval et al. (2023), arXiv:2305.15930, the sparsity of rewards.

    >>> expected_records(4)  # 1 + 1/2 + 1/3 + 1/4
    2.0833333333333335
    """
    if check_count("steps", steps) <= SUMMED:
        return math.fsum(1 / t for t in range(1, steps + 1))
    return math.log(steps) + EULER + 1 / (2 * steps) - 1 / (12 * steps**2)

"""A transformer that has learnt to search: it reads what was evaluated, and says of each candidate what it is worth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from minimand._checks import check_count, check_floating, check_range
from minimand.hyper import HyperSpec
from minimand.losses.inner import evaluating
from minimand.optim.search.bar_distribution import NEURAL_ACQUISITION, BarDistribution
from minimand.optim.search.search import Search
from minimand.source import from_paper

POSITIVE = HyperSpec(0.1, low=0.0, closed="neither")


class Acquired(NamedTuple):
    """What a process says: logits (..., m, buckets), acquisition (..., m) of each candidate, value (...) of the state.

    The policy is the acquisition's softmax.
    """

    logits: Tensor
    acquisition: Tensor
    value: Tensor


@from_paper(NEURAL_ACQUISITION)
class NeuralAcquisitionProcess(nn.Module):
    """A forecast and an acquisition value for every candidate, from the points evaluated so far.

    A token is E_x x + E_y y for an evaluated point and E_x x for a candidate, without positions; every token sees the
    evaluated points and itself. A candidate's output gives bucket logits; its acquisition is
    MLP(softmax(logits), E_x x, incumbent, t / T) / temperature, and the policy is its softmax over unused candidates.
    So the order of what was evaluated does not matter, nor does it to a candidate which others there are.

    Train it on whole searches in drawn functions with ``ppo_objective`` on the policy, a squared error on ``value``
    and, weighed by 1, ``-bars.log_prob(logits, y)`` at the candidates' true values: rewards alone are too rare.

    Args:
        dim: how many numbers a point has.
        width: of tokens and of all layers but the acquisition's; a multiple of ``heads``.
        layers: of attention.
        heads: of each.
        buckets: of a forecast.
        bound: forecasts lie in [-bound, bound], in the units of the values.
        hidden: width of the acquisition's three layers.
        temperature: of the policy, above 0.

    Raises:
        ValueError, TypeError: for arguments that do not fit.

    Source: Maraval et al. (2023), arXiv:2305.15930; the defaults are those of the authors' code. There the weights
    start at a deviation of 0.01, here as PyTorch's layers start. The value sees the incumbent and t / T alone, as
    there; the incumbent is ``-bound`` before anything is known, which could not be compared.

    >>> process = NeuralAcquisitionProcess(2, width=8, layers=1, heads=2, buckets=5)
    >>> found = process(torch.rand(3, 2), torch.randn(3), torch.rand(7, 2), torch.tensor(0.5))
    >>> found.logits.shape, found.acquisition.shape, found.value.shape
    (torch.Size([7, 5]), torch.Size([7]), torch.Size([]))
    """

    borders: Tensor

    def __init__(
        self,
        dim: int,
        *,
        width: int = 512,
        layers: int = 6,
        heads: int = 4,
        buckets: int = 1000,
        bound: float = 8.0,
        hidden: int = 200,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "width": width, "layers": layers, "heads": heads, "buckets": buckets, "hidden": hidden}
        for name, size in sizes.items():
            check_count(name, size)
        for name, number in (("bound", bound), ("temperature", temperature)):
            POSITIVE.check(name, number)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, {heads}; got {width}")
        self.dim, self.temperature = dim, temperature
        self.register_buffer("borders", torch.linspace(-bound, bound, buckets + 1))
        self.embed_point, self.embed_value = nn.Linear(dim, width), nn.Linear(1, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.forecast = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, buckets))
        inner = [layer for _ in range(2) for layer in (nn.Linear(hidden, hidden), nn.ReLU())]
        first = nn.Linear(buckets + width + 2, hidden)
        self.acquisition = nn.Sequential(first, nn.ReLU(), *inner, nn.Linear(hidden, 1))
        self.baseline = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))

    @property
    def bars(self) -> BarDistribution:
        """What the logits are forecasts in."""
        return BarDistribution(self.borders)

    def forward(
        self,
        points: Tensor,
        values: Tensor,
        candidates: Tensor,
        progress: Tensor,
        known: Tensor | None = None,
        used: Tensor | None = None,
    ) -> Acquired:
        """Forecast, acquisition and value; leading dimensions (...) broadcast, as for all steps of a search at once.

        Args:
            points: (..., n, dim), evaluated; n may be 0.
            values: (..., n), standardised to lie well inside the bound; finite, also where not known.
            candidates: (..., m, dim).
            progress: (...), t / T, the share of the budget that is spent.
            known: (..., n), which points count; all unless given.
            used: (..., m), candidates that are no longer on offer: their acquisition is -inf. None unless given.
        """
        self._check(points, values, candidates)
        count = points.shape[-2]
        known = torch.ones_like(values, dtype=torch.bool) if known is None else known
        places = self.embed_point(candidates)
        evaluated, offered = self.embed_point(points) + self.embed_value(values[..., None]), places
        lead = torch.broadcast_shapes(evaluated.shape[:-2], offered.shape[:-2])
        tokens = torch.cat([t.expand(*lead, *t.shape[-2:]) for t in (evaluated, offered)], -2)
        for block in self.blocks:
            tokens = block(tokens, known)
        logits = self.forecast(tokens[..., count:, :])

        least = self.borders[0]
        seen = torch.where(known, values, least)
        incumbent = torch.cat([seen, least.expand(*seen.shape[:-1], 1)], -1).amax(-1)
        state = torch.stack(torch.broadcast_tensors(incumbent, progress), -1)
        lead = torch.broadcast_shapes(logits.shape[:-2], state.shape[:-1])
        parts = (logits.softmax(-1), places, state[..., None, :])
        shape = (*lead, places.shape[-2])
        acquisition = self.acquisition(torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1))
        acquisition = acquisition[..., 0] / self.temperature
        if used is not None:
            acquisition = acquisition.masked_fill(used, -torch.inf)
        return Acquired(logits, acquisition, self.baseline(state)[..., 0])

    def _check(self, points: Tensor, values: Tensor, candidates: Tensor) -> None:
        for name, x in (("points", points), ("candidates", candidates)):
            if check_floating(name, x).ndim < 2 or x.shape[-1] != self.dim:
                raise ValueError(f"{name} must have shape (..., k, {self.dim}); got {tuple(x.shape)}")
        if check_floating("values", values).shape != points.shape[:-1]:
            raise ValueError(f"values must have shape {tuple(points.shape[:-1])}; got {tuple(values.shape)}")


class _Block(nn.Module):
    """Attention to the evaluated points and oneself, then two layers; each added and normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attended, self.thought = nn.LayerNorm(width), nn.LayerNorm(width)
        self.think = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        """Tokens (..., n + m, width), the first n of them evaluated points, of which ``known`` (..., n) count."""
        count, length = known.shape[-1], tokens.shape[-2]
        read = self.read(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(-2, -3) for part in read.unbind(-3))  # (..., heads, n + m, width / heads)
        query = query * query.shape[-1] ** -0.5
        itself = torch.eye(length, count, dtype=torch.bool, device=tokens.device)
        hidden = ~known[..., None, None, :] | itself  # oneself is looked at once, below
        others = (query @ key[..., :count, :].mT).masked_fill(hidden, -torch.inf)
        own = (query * key).sum(-1, keepdim=True).expand(*others.shape[:-1], 1)
        weight = torch.cat([others, own], -1).softmax(-1)
        mixed = weight[..., :count] @ value[..., :count, :] + weight[..., count:] * value
        tokens = self.attended(tokens + self.write(mixed.transpose(-2, -3).flatten(-2)))
        return self.thought(tokens + self.think(tokens))


@from_paper(NEURAL_ACQUISITION)
class NeuralProcessSearch(Search):
    """Search among finitely many candidates by a trained process: ask for those whose acquisition is largest.

    A candidate is on offer until its value is told. Of several asked for at once none knows of the others. Points told
    that are no candidates inform the process all the same; infeasible ones do not.

    Args:
        process: a trained process; it is used in evaluation mode and without gradient.
        candidates: (m, dim) points of the cube.
        budget: T, how many evaluations the search may take, as when the process was trained.
        center, scale: values are told to the process as (value - center) / scale: in the units that it was trained in.

    Raises:
        ValueError, TypeError: for arguments that do not fit.

    Source: Maraval et al. (2023), arXiv:2305.15930; the likeliest action, as their code takes where it is
    deterministic. While a process has learnt little, actions drawn by its policy do better.

    >>> process = NeuralAcquisitionProcess(1, width=8, layers=1, heads=2, buckets=5)
    >>> search = NeuralProcessSearch(process, torch.linspace(0, 1, 4)[:, None], budget=4)
    >>> for _ in range(4):
    ...     point = search.ask()
    ...     search.tell(point, -(point[:, 0] - 1 / 3).abs())
    >>> search.best.point  # after all four, whatever the process is worth
    tensor([0.3333], dtype=torch.float64)
    """

    def __init__(
        self,
        process: NeuralAcquisitionProcess,
        candidates: Tensor,
        budget: int,
        *,
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(process.dim)
        candidates = check_floating("candidates", candidates, ndim=2).detach().double().cpu()
        if candidates.shape[1] != process.dim:
            raise ValueError(f"candidates must have shape (m, {process.dim}); got {tuple(candidates.shape)}")
        check_range("candidates", candidates, 0.0, 1.0)
        POSITIVE.check("scale", scale)
        self.process, self.candidates, self.budget = process, candidates, check_count("budget", budget)
        self.center, self.scale = center, scale

    @torch.no_grad()
    def ask(self, count: int = 1) -> Tensor:
        """The ``count`` candidates (count, dim) to evaluate next, the most promising first.

        Raises:
            ValueError: for more than are left.
        """
        used = (self.candidates[:, None] == self.points).all(-1).any(-1)
        left = int((~used).sum())
        if check_count("count", count) > left:
            raise ValueError(f"count must be at most {left}, the candidates left; got {count}")
        points, values = self.feasible
        progress = torch.tensor(min(len(self.values) / self.budget, 1.0))
        like = self.process.borders
        given = (points, (values - self.center) / self.scale, self.candidates, progress)
        with evaluating(self.process):
            found = self.process(*(x.to(like) for x in given), used=used.to(like.device))
        return self.candidates[found.acquisition.topk(count).indices.cpu()]

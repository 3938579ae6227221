"""A language model small enough that dozens of its trainings run as one, on which update rules are compared.

One block of a transformer reads characters of the standard library's source: pre-norm, width 32, two heads, 32
characters of context. The rule under test trains the block's four matrices, and Adam all the rest; or it trains all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand.claims._library_text import library_text
from minimand.claims.claim import Figure, Scale
from minimand.optim import BatchedTrainer, gauss_newton_bartlett_diagonal, linear_decay, rules
from minimand.optim.rule import Hyper, Rule, State, events, fallback_hypers
from minimand.optim.trainer import TrainerState

Params = dict[str, Tensor]

CHARACTERS, VOCABULARY = 600_000, 128
CONTEXT, WIDTH, HEADS = 32, 32, 2
BLOCK = {
    "attention": (3 * WIDTH, WIDTH),
    "projection": (WIDTH, WIDTH),
    "up": (4 * WIDTH, WIDTH),
    "down": (WIDTH, 4 * WIDTH),
}
REST = {"embedding": VOCABULARY * WIDTH, "position": CONTEXT * WIDTH, "head": VOCABULARY * WIDTH}
SMALL = 0.02  # deviation of what starts small: all of the rest, and the matrix into the hidden layer
APART = 8  # characters between the starts of two training windows
BATCH, WARMUP = 16, 20  # windows a step, steps
REST_RATE = 3e-3  # Adam's on what the rule under test does not train
PART = 64  # windows that are judged at once
STAGE = 10  # steps between two looks at a run, and between two estimates of curvature
CHUNK = 6  # trials at once: more of them do not stay in the processor's cache

HELD_OUT = {"smoke": 1, "small": 8, "full": 8}  # parts that the last model is judged on; on its way, a quarter of them
SEEDS = {"smoke": 2, "small": 8, "full": 24}
STEPS = {"smoke": 2, "small": 300, "full": 3000}


@dataclass(frozen=True)
class Method:
    """A rule, three learning rates a factor 3 apart, and its other numbers; weights do not decay."""

    rule: Rule
    rate: float
    hypers: Mapping[str, float] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates that it is tuned over."""
        return (self.rate / 3, self.rate, 3 * self.rate)


@dataclass(frozen=True)
class Trained:
    """What training with each rate (R) and seed (S) came to.

    ``loss`` (R, S) is the held-out cross-entropy at the end, in nats a character; ``curve`` (R, S, P) the same on fewer
    windows after each of ``steps`` (P); ``variation`` (R, S) the coefficient of variation of the row norms of a step,
    its mean over matrices and looks.
    """

    method: Method
    loss: Tensor
    curve: Tensor
    steps: tuple[int, ...]
    variation: Tensor

    @property
    def best(self) -> int:
        """The rate with the least mean loss; one that diverged has none."""
        return int(self.loss.mean(1).nan_to_num(nan=math.inf).argmin())

    @property
    def losses(self) -> list[float]:
        """The loss of every seed at the best rate."""
        return self.loss[self.best].tolist()

    def steps_to(self, loss: Tensor) -> Tensor:
        """The first step (S,) at which each seed's curve at the best rate is no higher than ``loss`` (S,); else inf."""
        reached = self.curve[self.best] <= loss[:, None]
        first = torch.where(reached, torch.tensor(self.steps, dtype=torch.float64), math.inf)
        return first.amin(1)

    @property
    def row(self) -> tuple[float, float, str]:
        """For a table: the best rate, the mean loss there, and that of the rates in order."""
        means = ", ".join(f"{mean:.3f}" for mean in self.loss.mean(1).tolist())
        return self.method.rates[self.best], float(self.loss[self.best].mean()), means


COLUMNS = ("rule", "best rate", "held-out loss", "at each rate")


@dataclass(frozen=True, kw_only=True)
class OnMatrices(Rule):
    """A rule that acts by element, on matrices alone: what is none goes to AdamW, as with a matrix rule."""

    event: ClassVar[Any] = "matrix"
    inner: Rule

    @property
    def hypers(self) -> Any:  # type: ignore[override]
        return {**self.inner.hypers, **fallback_hypers(rules.AdamW.hypers)}

    @property
    def fallback(self) -> Rule:
        return rules.AdamW()

    def init(self, param: Tensor) -> State:
        return self.inner.init(param)

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        return self.inner.direction(grad, state, param, hyper)


@lru_cache
def windows() -> tuple[Tensor, Tensor]:
    """The training windows (N, CONTEXT + 1) and those held out (8 * PART, CONTEXT + 1), of character codes."""
    text = torch.tensor([min(ord(letter), VOCABULARY - 1) for letter in library_text()[:CHARACTERS]])
    split = len(text) * 9 // 10
    held_out = text[split:].unfold(0, CONTEXT + 1, 1)
    spread = torch.linspace(0, len(held_out) - 1, 8 * PART).long()
    # Taken in turns, so that every part is of the whole text.
    spread = spread.view(PART, 8).mT.flatten()
    return text[:split].unfold(0, CONTEXT + 1, APART).contiguous(), held_out[spread]


def initial(seed: int) -> Params:
    """A model's parameters before training; those that are no matrices of the block lie flat, as no matrix."""
    generator = torch.Generator().manual_seed(seed)
    block = {name: torch.randn(*shape, generator=generator) * shape[1] ** -0.5 for name, shape in BLOCK.items()}
    block["up"] *= SMALL * WIDTH**0.5
    return block | {name: SMALL * torch.randn(size, generator=generator) for name, size in REST.items()}


def logits(params: Params, characters: Tensor) -> Tensor:
    """What comes next after each of ``characters`` (B, CONTEXT): (B, CONTEXT, VOCABULARY)."""
    one_hot = (characters[..., None] == torch.arange(VOCABULARY)).float()  # a product is faster than a scattered sum
    x = one_hot @ params["embedding"].view(VOCABULARY, WIDTH) + params["position"].view(CONTEXT, WIDTH)
    heads = (F.layer_norm(x, (WIDTH,)) @ params["attention"].mT).unflatten(-1, (3, HEADS, WIDTH // HEADS))
    query, key, value = heads.movedim(-3, 0).transpose(-3, -2)
    future = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    attention = (query @ key.mT / (WIDTH // HEADS) ** 0.5 + future).softmax(-1)
    x = x + (attention @ value).transpose(-3, -2).flatten(-2) @ params["projection"].mT
    x = x + (F.layer_norm(x, (WIDTH,)) @ params["up"].mT).relu() @ params["down"].mT
    return F.layer_norm(x, (WIDTH,)) @ params["head"].view(VOCABULARY, WIDTH).mT


def loss_of(params: Params, batch: tuple[Tensor, ...], hyper: Any = None) -> Tensor:
    """The mean cross-entropy of the next character in windows (B, CONTEXT + 1)."""
    return F.cross_entropy(logits(params, batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())


def train(method: Method, scale: Scale, seed: int, everywhere: bool = False) -> Trained:
    """Train from every seed with every rate; ``everywhere``, with the rule on all parameters and not on the block's.

    Seeds are ``seed``, ``seed`` + 1000, ...: a seed has its own start and data order, the same for every rule and rate.
    """
    seeds, steps, rates = [seed + 1000 * i for i in range(SEEDS[scale])], STEPS[scale], method.rates
    rule = method.rule if everywhere or method.rule.event == "matrix" else OnMatrices(inner=method.rule)
    data, held_out = windows()
    held_out = held_out[: HELD_OUT[scale] * PART]
    few = held_out[: max(HELD_OUT[scale] // 4, 1) * PART]
    starts, orders = [initial(s) for s in seeds], [_order(s, steps, len(data)) for s in seeds]
    params = {name: torch.stack([start[name] for start in starts] * len(rates)) for name in starts[0]}
    index = torch.stack(orders * len(rates))
    trainer = BatchedTrainer(
        loss_of, rule, lambda t, total: linear_decay(t, total, min(WARMUP, total)), chunk_size=CHUNK, total_steps=steps
    )
    state = trainer.init(params, _numbers(method, rule, len(seeds)))
    curve, variation, looks = [], [], []
    for start in range(0, steps, STAGE):
        stage = index[:, start : start + STAGE]
        if rule.observes:
            state = _observed(rule, params, state, data, stage[:, 0], start)
        before, state, _ = trainer.run(params, state, (data,), stage[:, :-1])
        params, state, _ = trainer.run(before, state, (data,), stage[:, -1:])
        variation.append(_row_variation({name: params[name] - before[name] for name in BLOCK}))
        curve.append(_judged(params, few))
        looks.append(start + stage.shape[1])
    shape = (len(rates), len(seeds))
    return Trained(
        method,
        _judged(params, held_out).view(shape),
        torch.stack(curve, 1).view(*shape, -1),
        tuple(looks),
        torch.stack(variation).mean(0).view(shape),
    )


def held_out_figure(found: Mapping[str, Trained]) -> Figure:
    """How the held-out loss falls at each method's best rate."""
    lines = {
        name: tuple(zip(one.steps, one.curve[one.best].mean(0).tolist(), strict=True)) for name, one in found.items()
    }
    return Figure("Loss of the small language model", "step", "held-out loss, nats a character", lines)


def _order(seed: int, steps: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, count, (steps, BATCH), generator=generator)


def _numbers(method: Method, rule: Rule, seeds: int) -> dict[str, float | Tensor]:
    """A hyper a trial: rates first, seeds within."""
    rates = torch.tensor(method.rates, dtype=torch.float64).repeat_interleave(seeds)
    rest = {"fallback_lr": REST_RATE, "fallback_beta2": 0.99, "fallback_eps": 1e-8, "fallback_weight_decay": 0.0}
    shared = rest if rule.fallback is not None else {}
    return {**shared, "weight_decay": 0.0, **method.hypers, "lr": rates}


def _observed(rule: Rule, params: Params, state: TrainerState, data: Tensor, rows: Tensor, step: int) -> TrainerState:
    """The state after an estimate of curvature on each trial's next windows (B, BATCH), trial by trial."""
    estimates = []
    for i, own in enumerate(rows):
        tokens, trial = data[own][:, :-1], {name: value[i] for name, value in params.items()}
        reads = partial(logits, characters=tokens)
        estimates.append(gauss_newton_bartlett_diagonal(reads, trial, seed=step * len(rows) + i))
    stacked = {name: torch.stack([estimate[name] for estimate in estimates]) for name in params}
    states = dict(state.rule)
    for event in events(rule, {name: value[0] for name, value in params.items()}, joint=True):
        if event.rule.observes:
            lead = event.names[0]
            packed = [torch.func.vmap(event.pack)(tensors) for tensors in (stacked, params)]
            observe = torch.func.vmap(event.rule.observe)
            states[lead] = observe(packed[0], states[lead], packed[1], event.hyper(state.hypers))
    return replace(state, rule=states)


@torch.no_grad()
def _judged(params: Params, held_out: Tensor) -> Tensor:
    """Each trial's mean loss (B,) on windows."""
    judge = torch.func.vmap(loss_of, in_dims=(0, None), chunk_size=CHUNK)
    return torch.stack([judge(params, (part,)) for part in held_out.split(PART)]).double().mean(0)


def _row_variation(steps: Params) -> Tensor:
    """The deviation of each step's row norms over their mean (B,), its mean over matrices."""
    norms = [step.norm(dim=2) for step in steps.values()]
    return torch.stack([norm.std(1, correction=0) / norm.mean(1) for norm in norms]).mean(0).double()

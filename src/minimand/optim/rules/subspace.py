"""Rules that treat a weight matrix differently along the directions, or in the entries, that ``refresh`` chooses."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import ClassVar, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count
from minimand._numerics import upcast, widest
from minimand.hyper import HyperSpec
from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    adam_hypers,
    ema,
    fallback_hypers,
    fraction,
    nonnegative,
    sign,
    zero_step,
    zeros_like,
)
from minimand.optim.rules.adam import AdamW
from minimand.source import Source

RESIDUE = 8  # roundings of the gradient's largest entry: what a projection may leave of nothing


@dataclass(frozen=True, kw_only=True)
class Subspace(Rule):
    """What Conda and FRUGAL share: a matrix, and a choice made anew every ``gap`` steps."""

    event: ClassVar = "matrix"
    gap: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("gap", self.gap)

    @property
    def fallback(self) -> Rule:
        return AdamW()

    @property
    def refresh_every(self) -> int:
        return self.gap

    def whole_gradient(self, grad: Tensor, param: Tensor, hyper: Hyper) -> Tensor:
        """The gradient as ``direction`` gets it, in the parameter's precision as the state is."""
        grad = upcast(grad).to(upcast(param).dtype)
        decays = self.decay == "l2" and "weight_decay" in hyper
        return grad + hyper["weight_decay"] * upcast(param) if decays else grad


@dataclass(frozen=True, kw_only=True)
class Conda(Subspace):
    """Adam in the basis of its momentum's singular vectors: there, along the shorter side, it normalises.

    M_t = b1 M_{t-1} + (1 - b1) G_t;  Q the singular vectors of M_t on the shorter side, every ``gap`` steps
    V_t = b2 V_{t-1} + (1 - b2) (Q^T G_t)^2;  u_t = scale sqrt(1 - b2^t) / (1 - b1^t) Q (Q^T M_t / (sqrt(V_t) + eps))

    with G_t Q in place of Q^T G_t where rows >= cols. V_t keeps its entries when Q changes. What is no matrix goes to
    AdamW with the hypers named ``fallback_...``.

    Source: Wang et al. (2025), arXiv:2509.24218, algorithm 1; the defaults are those of the authors' runs. Their code
    decays the weight after the step, here before it. The state holds Q^T M_t, which saves one product of three. Q is
    found from M M^T in float64, which tells apart singular values down to 1e-8 of the largest: a decomposition of M in
    float32 does no better and takes several times as long; in float64 it does, and smaller ones may be mixed here.
    """

    source = Source(
        "Conda: Column-Normalized Adam for Training Large Language Models Faster",
        "Wang et al.",
        2025,
        "2509.24218",
        "algorithm 1",
    )
    hypers = {
        **adam_hypers(lr=1e-2, beta2=0.99),
        "scale": nonnegative(0.25),
        **fallback_hypers({**AdamW.hypers, "beta2": fraction(0.99)}),
    }

    def init(self, param: Tensor) -> State:
        mean = zeros_like(param)
        basis = torch.eye(min(mean.shape), dtype=mean.dtype, device=mean.device)
        return {"step": zero_step(), "mean": mean, "square": torch.zeros_like(mean), "basis": basis}

    def refresh(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> State:
        """The basis from the momentum as it will be after this gradient, and the momentum in it."""
        mean = back_from(state["basis"], state["mean"], param)
        basis = singular_basis(ema(mean, self.whole_gradient(grad, param, hyper), hyper["beta1"]))
        return {**state, "mean": onto(basis, mean, param), "basis": basis}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        step, basis = state["step"] + 1, state["basis"]
        grad = onto(basis, grad.to(basis.dtype), param)
        mean = ema(state["mean"], grad, hyper["beta1"])
        square = ema(state["square"], grad.square(), hyper["beta2"])
        weights = [1 - hyper[beta] ** step.double() for beta in ("beta1", "beta2")]
        size = hyper["scale"] * weights[1].sqrt() / weights[0]
        u = back_from(size * basis, mean / (square.sqrt() + hyper["eps"]), param)  # the basis is the smaller factor
        return u, {"step": step, "mean": mean, "square": square, "basis": basis.clone()}


@dataclass(frozen=True, kw_only=True)
class Frugal(Subspace):
    """Adam on a share ``density`` of every matrix, and on all the rest a rule that keeps no state.

    s_t = Adam(P g_t);  r_t = g_t - P^+ P g_t;  u_t = P^+ s_t + free_scale sign(r_t)

    P keeps what is chosen anew every ``gap`` steps, and P^+ puts it back; the moments and their count then start
    afresh. ``select`` chooses: ``"svd"``, the gradient's top round(density min(rows, cols)) singular vectors on the
    shorter side; ``"columns"``, ``"rows"`` or ``"elements"``, floor(density count) of them at random. ``free="sgd"``
    steps along r_t itself, ``free="none"`` not at all, which is GaLore for ``"svd"``. For ``"svd"`` entries of r_t
    below 8 roundings of the largest in g_t (1e-6 of it in float32) are taken for the zeros that they may be.

    Matrices of one shape choose alike: ``seed`` and the refreshes so far are all that the choice depends on.
    ``free_scale=0.1`` is the paper's for fine-tuning. What is no matrix goes to AdamW with the hypers named
    ``fallback_...``.

    Source: Zmushko et al. (2024), arXiv:2411.07837, algorithm 1, with AdamW and signSGD. Choosing whole tensors, as it
    also does, is a matter of parameter groups: it saves no memory where every state has a fixed shape.
    """

    source = Source(
        "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
        "Zmushko et al.",
        2024,
        "2411.07837",
        "algorithm 1",
    )
    hypers = {
        **adam_hypers(),
        "free_scale": nonnegative(1.0),
        **fallback_hypers(AdamW.hypers),
    }
    gap: int = 200
    select: Literal["svd", "columns", "rows", "elements"] = "svd"
    free: Literal["sign", "sgd", "none"] = "sign"
    density: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("select", self.select, ("svd", "columns", "rows", "elements"))
        check_choice("free", self.free, ("sign", "sgd", "none"))
        HyperSpec(0.25, low=0.0, high=1.0).check("density", self.density)

    def init(self, param: Tensor) -> State:
        wide = zeros_like(param)
        if self.select == "svd":
            size = min(wide.shape)
            chosen = {"basis": torch.eye(size, round(self.density * size), dtype=wide.dtype, device=wide.device)}
        else:
            count = floor(self.density * self._lines(wide) + 1e-9)  # 0.29 * 100 is 28.999...
            index = torch.arange(count, device=wide.device)
            chosen = {"index": index, "seed": torch.tensor(self.seed, device=wide.device)}
        moments = AdamW().init(self._keep(wide, chosen))
        return {**moments, **chosen}

    def refresh(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> State:
        """Choose anew, and start the moments and their count afresh."""
        fresh = {name: torch.zeros_like(state[name]) for name in ("step", "mean", "square")}
        if self.select == "svd":
            basis = singular_basis(self.whole_gradient(grad, param, hyper), state["basis"].shape[1])
            return {**fresh, "basis": basis}
        seed = scrambled(state["seed"] + 1)
        keys = scrambled(seed + torch.arange(self._lines(param), device=seed.device))
        index = keys.argsort()[: state["index"].shape[0]].sort().values
        return {**fresh, "index": index, "seed": seed}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        moments = {name: state[name] for name in ("step", "mean", "square")}
        grad = grad.to(moments["mean"].dtype)
        kept = self._keep(grad, state)
        inner, moments = AdamW().direction(kept, moments, kept, hyper)
        chosen = {name: state[name].clone() for name in ("basis", "index", "seed") if name in state}
        return self._join(inner, kept, grad, state, hyper["free_scale"]), {**moments, **chosen}

    def _lines(self, matrix: Tensor) -> int:
        """How many columns, rows or elements there are to choose from."""
        rows, cols = matrix.shape
        return {"columns": cols, "rows": rows, "elements": rows * cols}[self.select]

    def _keep(self, grad: Tensor, state: State) -> Tensor:
        """P g."""
        if self.select == "svd":
            return onto(state["basis"], grad, grad)
        if self.select == "elements":
            return grad.reshape(-1).index_select(0, state["index"])
        return grad.index_select(self._dim, state["index"])

    @property
    def _dim(self) -> int:
        return 1 if self.select == "columns" else 0

    def _join(self, inner: Tensor, kept: Tensor, grad: Tensor, state: State, free_scale: Tensor) -> Tensor:
        """P^+ of the inner rule's direction, and the free rule's on the rest."""
        if self.select == "svd":
            u = back_from(state["basis"], inner, grad)
            if self.free == "none" or grad.numel() == 0:
                return u
            rest = grad - back_from(state["basis"], kept, grad)
            noise = RESIDUE * torch.finfo(rest.dtype).eps * grad.abs().amax()
            return u + free_scale * self._free(torch.where(rest.abs() <= noise, 0, rest))
        rest = torch.zeros_like(grad) if self.free == "none" else free_scale * self._free(grad)
        if self.select == "elements":
            return rest.reshape(-1).index_copy(0, state["index"], inner).reshape(grad.shape)
        return rest.index_copy(self._dim, state["index"], inner)

    def _free(self, rest: Tensor) -> Tensor:
        return sign(rest) if self.free == "sign" else rest


def onto(basis: Tensor, matrix: Tensor, param: Tensor) -> Tensor:
    """``matrix``, of ``param``'s shape, by its coordinates along the columns of ``basis``, on the shorter side."""
    rows, cols = param.shape
    return matrix @ basis if rows >= cols else basis.mT @ matrix


def back_from(basis: Tensor, coordinates: Tensor, param: Tensor) -> Tensor:
    """The matrix that has these coordinates and nothing beyond them."""
    rows, cols = param.shape
    return coordinates @ basis.mT if rows >= cols else basis @ coordinates


def singular_basis(matrix: Tensor, rank: int | None = None) -> Tensor:
    """The singular vectors (s, rank) of a matrix on its shorter side, of length s, from the largest value down.

    From the Gram matrix in float64, which tells apart singular values down to 1e-8 of the largest. Entries that are
    not finite count as zero: what has diverged shows in its step, and no decomposition takes it.
    """
    rows, cols = matrix.shape
    if matrix.numel() == 0:
        size = min(rows, cols)
        return torch.eye(size, size if rank is None else rank, dtype=matrix.dtype, device=matrix.device)
    matrix = torch.where(matrix.isfinite(), matrix, 0)
    largest = matrix.abs().amax()
    wide = widest(matrix / torch.where(largest > 0, largest, 1))
    gram = wide.mT @ wide if rows >= cols else wide @ wide.mT
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(-1)
    return vectors[:, :rank].to(matrix.dtype).contiguous()


def scrambled(value: Tensor) -> Tensor:
    """A one-to-one map of int64 to itself under which neighbours end far apart.

    Source: Steele et al. (2014), "Fast Splittable Pseudorandom Number Generators": the mix of SplitMix64, whose
    shifts fill with zeros.
    """
    mixed = value * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64 has it, and so below
    mixed = (mixed ^ ((mixed >> 30) & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ ((mixed >> 27) & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return mixed ^ ((mixed >> 31) & (1 << 33) - 1)

"""Rules that act on a weight matrix as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating
from minimand._numerics import upcast
from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    ema,
    fallback_hypers,
    fraction,
    learning_rate,
    nonnegative,
    weight_decay,
    zeros_like,
)
from minimand.optim.rules.adam import AdamW
from minimand.source import Source

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024), Muon: the quintic's coefficients
NORM_FLOOR = 1e-7  # added to the Frobenius norm there
WIDE = 2.5  # columns over rows from which steps by the Gram matrix take less time
RUN, SHORT_RUN = 3, 2  # steps from one Gram matrix, with 32 and with 16 bits: each makes its rounding 12 times as large
RMS_OF_ADAMW = 0.2  # Liu et al. (2025), arXiv:2502.16982: what AdamW's steps usually have, in learning rates


def orthogonalise(matrix: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values go to about 1 (0.68 to 1.13 after 5 steps).

    ``matrix`` (rows, cols). ``steps`` Newton-Schulz iterations X <- a X + (b X X^T + c (X X^T)^2) X from
    X = M / (||M||_F + 1e-7), in ``dtype``: unless given the matrix's own, float32 for 16 bits, on a CPU, and bfloat16
    on an accelerator, for all but float64. Zero stays zero.

    Where ``matrix`` is wide or tall enough, two or three steps at a time are taken by X X^T alone, which is small: X
    after them is a polynomial of it times X. The result is the same to rounding, in fewer operations: Zhang et al.
    (2026), Gram Newton-Schulz.

    >>> orthogonalise(torch.diag(torch.tensor([3.0, 4.0]))).diagonal()
    tensor([0.7229, 1.1192])
    """
    check_floating("matrix", matrix, ndim=2)
    check_count("steps", steps)
    if matrix.numel() == 0:
        return matrix
    wide = upcast(matrix)
    largest = wide.abs().amax()
    x = wide / torch.where(largest > 0, largest, 1)  # squares of 1e30 are too large for float32
    norm = torch.linalg.vector_norm(x) + NORM_FLOOR / largest
    x = (x / norm).to(dtype or _iteration_dtype(wide))
    for count in runs(x.shape, steps, x.dtype):
        x = _iterated(x, count)
    return x.to(matrix.dtype)


def runs(shape: Sequence[int], steps: int, dtype: torch.dtype) -> list[int]:
    """How many of ``steps`` an iterate (rows, cols) of this dtype takes from each of its Gram matrices."""
    short, long = sorted(shape)
    if long < WIDE * short:
        return [1] * steps
    longest = RUN if dtype.itemsize > 2 else SHORT_RUN
    rest = [steps % longest] if steps % longest else []
    return [longest] * (steps // longest) + rest


def _iterated(x: Tensor, steps: int) -> Tensor:
    """``x`` (rows, cols) after these steps, from its Gram matrix on the shorter side, made once."""
    a, b, c = NEWTON_SCHULZ
    is_tall = x.shape[0] > x.shape[1]  # the transpose would end in strided passes
    gram = x.mT @ x if is_tall else x @ x.mT
    bent = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    if steps == 1:
        return torch.addmm(x, *((x, bent) if is_tall else (bent, x)), beta=a)
    whole = bent + a * torch.eye(len(bent), dtype=x.dtype, device=x.device)
    for _ in range(steps - 1):
        # The Gram matrix of the next iterate: all of these commute.
        moved = torch.addmm(gram, gram, bent, beta=a)
        gram = torch.addmm(moved, bent, moved, beta=a)
        bent = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        whole = torch.addmm(whole, bent, whole, beta=a)
    return x @ whole if is_tall else whole @ x


def _iteration_dtype(matrix: Tensor) -> torch.dtype:
    return torch.bfloat16 if matrix.device.type != "cpu" and matrix.dtype == torch.float32 else matrix.dtype


@dataclass(frozen=True, kw_only=True)
class Orthogonalised(Rule):
    """What Muon and its relatives share: momentum, looked ahead along with ``nesterov``, and orthogonalised."""

    event: ClassVar = "matrix"
    nesterov: bool = True
    ns_steps: int = 5
    ns_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("ns_steps", self.ns_steps)

    @property
    def fallback(self) -> Rule:
        return AdamW()

    def orthogonal_momentum(self, grad: Tensor, mean: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The momentum after ``grad``, orthogonalised, and as the state keeps it."""
        mean = ema(mean, grad, beta)
        ahead = ema(mean, grad, beta) if self.nesterov else mean
        return orthogonalise(ahead, self.ns_steps, self.ns_dtype), mean


def tall_scale(param: Tensor) -> float:
    """sqrt(max(1, rows / cols)): Jordan et al.'s factor that makes one learning rate serve every shape."""
    rows, cols = param.shape
    return max(1.0, rows / cols) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Muon(Orthogonalised):
    """Momentum, orthogonalised: every direction of a weight matrix is stepped equally far.

    m_t = mu m_{t-1} + (1 - mu) g_t;  v_t = (1 - mu) g_t + mu m_t with ``nesterov``, else m_t
    u_t = scale * NewtonSchulz(v_t)

    ``adjust_lr="original"`` scales by sqrt(max(1, rows / cols)), ``"match_rms_adamw"`` by 0.2 sqrt(max(rows, cols)),
    which lets AdamW's learning rate and decay carry over. Convolution kernels (o, i, kh, kw) are seen as
    (o, i kh kw). What is no matrix goes to AdamW with the hypers named ``fallback_...``; embeddings and output
    heads belong there too: see ``matrix_groups``.

    Source: Jordan et al. (2024), Muon: An optimizer for hidden layers in neural networks; Liu et al. (2025),
    arXiv:2502.16982, for ``match_rms_adamw``. ``ns_dtype=torch.bfloat16`` is the reference implementation's
    everywhere; see ``orthogonalise`` for the default.
    """

    source = Source("Muon: An optimizer for hidden layers in neural networks", "Jordan et al.", 2024)
    hypers = {
        "lr": learning_rate(2e-2),
        "momentum": fraction(0.95),
        "weight_decay": weight_decay(),
        **fallback_hypers({**AdamW.hypers, "beta2": fraction(0.95)}),
    }
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("adjust_lr", self.adjust_lr, ("original", "match_rms_adamw"))

    def init(self, param: Tensor) -> State:
        return {"mean": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        orthogonal, mean = self.orthogonal_momentum(grad, state["mean"], hyper["momentum"])
        scale = tall_scale(param) if self.adjust_lr == "original" else RMS_OF_ADAMW * max(param.shape) ** 0.5
        return scale * orthogonal, {"mean": mean}


@dataclass(frozen=True, kw_only=True)
class NorMuon(Orthogonalised):
    """Muon whose rows, the neurons, are evened out: each is divided by a running root mean square of its own.

    m_t = b1 m_{t-1} + (1 - b1) g_t;  O_t = NewtonSchulz(m_t);  v_t = b2 v_{t-1} + (1 - b2) mean over columns of O_t^2
    H_t = O_t / (sqrt(v_t) + eps), row by row;  u_t = size * H_t / ||H_t||_F

    ``scale="rms"`` gives every step the root mean square 0.2, size = 0.2 sqrt(rows cols), so that AdamW's learning rate
    carries over; ``"muon"`` gives H_t back Muon's size, ||O_t||_F sqrt(max(1, rows / cols)), and wants Muon's rate,
    0.02. Convolution kernels, fallback and groups are as ``Muon``'s.

    Source: Li et al. (2025), arXiv:2510.05491, algorithm 1. The authors' code has ``nesterov=True``, ``scale="muon"``
    and, as ``Muon`` says, ``ns_dtype=torch.bfloat16``; its ``eps``, which the paper leaves open, is the default.
    """

    source = Source("NorMuon: Making Muon more efficient and scalable", "Li et al.", 2025, "2510.05491", "algorithm 1")
    hypers = {
        "lr": learning_rate(1e-3),
        "beta1": fraction(0.95),
        "beta2": fraction(0.95),
        "eps": nonnegative(1e-10),
        "weight_decay": weight_decay(),
        **fallback_hypers({**AdamW.hypers, "beta2": fraction(0.95), "eps": nonnegative(1e-10)}),
    }
    nesterov: bool = False
    scale: Literal["rms", "muon"] = "rms"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scale", self.scale, ("rms", "muon"))

    def init(self, param: Tensor) -> State:
        mean = zeros_like(param)
        return {"mean": mean, "row_square": mean.new_zeros(mean.shape[0], 1)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        orthogonal, mean = self.orthogonal_momentum(grad, state["mean"], hyper["beta1"])
        rows, cols = param.shape
        row_norm = torch.linalg.vector_norm(orthogonal, dim=1, keepdim=True)
        row_square = ema(state["row_square"], row_norm.square() / max(cols, 1), hyper["beta2"])
        # Rows are only scaled: the norms of what comes out follow from those of what goes in.
        inverse = (row_square.sqrt() + hyper["eps"]).reciprocal()
        norm = torch.linalg.vector_norm(row_norm * inverse)
        if self.scale == "rms":
            size = RMS_OF_ADAMW * (rows * cols) ** 0.5
        else:
            size = tall_scale(param) * torch.linalg.vector_norm(row_norm)
        factor = torch.where(norm == 0, 0, size / torch.where(norm == 0, 1, norm)) * inverse
        return factor * orthogonal, {"mean": mean, "row_square": row_square}


def matrix_groups(model: torch.nn.Module) -> list[dict[str, object]]:
    """Two parameter groups: hidden linear and convolution weights, and everything else with ``matrix=False``.

    Embeddings, the last linear layer, norms and biases are in the second. Groups hold (name, parameter) pairs.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> [name for name, _ in matrix_groups(model)[0]["params"]]
    ['0.weight']
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.modules.conv._ConvNd))
    ]
    linear = [name for name, module in layers if isinstance(module, torch.nn.Linear)]
    head = linear[-1] if linear else None
    hidden = {f"{name}.weight".lstrip(".") for name, _ in layers if name != head}
    # A weight tied to an embedding is the embedding.
    tied = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    named = list(model.named_parameters())
    is_matrix = [name in hidden and id(param) not in tied for name, param in named]
    return [
        {"params": [pair for pair, matrix in zip(named, is_matrix, strict=True) if matrix], "matrix": True},
        {"params": [pair for pair, matrix in zip(named, is_matrix, strict=True) if not matrix], "matrix": False},
    ]

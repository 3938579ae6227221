"""Rules that act on a weight matrix as a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_floating
from minimand._numerics import upcast
from minimand.optim.rule import (
    Hyper,
    Rule,
    State,
    ema,
    fallback_hypers,
    fraction,
    learning_rate,
    weight_decay,
    zeros_like,
)
from minimand.optim.rules.adam import AdamW
from minimand.source import Source

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024), Muon: the quintic's coefficients
NORM_FLOOR = 1e-7  # added to the Frobenius norm there


def orthogonalise(matrix: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values go to about 1 (0.68 to 1.13 after 5 steps).

    ``matrix`` (rows, cols). ``steps`` Newton-Schulz iterations X <- a X + (b X X^T + c (X X^T)^2) X from
    X = M / (||M||_F + 1e-7), in ``dtype`` (the matrix's own unless given, float32 for 16 bits). Zero stays zero.

    >>> orthogonalise(torch.diag(torch.tensor([3.0, 4.0]))).diagonal()
    tensor([0.7229, 1.1192])
    """
    check_floating("matrix", matrix, ndim=2)
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if matrix.numel() == 0:
        return matrix
    wide = upcast(matrix)
    largest = wide.abs().amax()
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    x = wide / largest
    x = x / (torch.linalg.vector_norm(x) + NORM_FLOOR / largest)
    x = x.to(dtype or wide.dtype)
    is_wide = matrix.shape[0] <= matrix.shape[1]
    x = x if is_wide else x.mT
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x if is_wide else x.mT).to(matrix.dtype)


@dataclass(frozen=True, kw_only=True)
class Muon(Rule):
    """Momentum, orthogonalised: every direction of a weight matrix is stepped equally far.

    m_t = mu m_{t-1} + (1 - mu) g_t;  v_t = (1 - mu) g_t + mu m_t with ``nesterov``, else m_t
    u_t = scale * NewtonSchulz(v_t)

    ``adjust_lr="original"`` scales by sqrt(max(1, rows / cols)), ``"match_rms_adamw"`` by 0.2 sqrt(max(rows, cols)),
    which lets AdamW's learning rate and decay carry over. Convolution kernels (o, i, kh, kw) are seen as
    (o, i kh kw). What is no matrix goes to AdamW with the hypers named ``fallback_...``; embeddings and output
    heads belong there too: see ``matrix_groups``.

    Source: Jordan et al. (2024), Muon: An optimizer for hidden layers in neural networks; Liu et al. (2025),
    arXiv:2502.16982, for ``match_rms_adamw``. ``ns_dtype=torch.bfloat16`` is the reference implementation's;
    the default iterates in the parameter's own precision.
    """

    source = Source("Muon: An optimizer for hidden layers in neural networks", "Jordan et al.", 2024)
    event: ClassVar = "matrix"
    hypers = {
        "lr": learning_rate(2e-2),
        "momentum": fraction(0.95),
        "weight_decay": weight_decay(),
        **fallback_hypers({**AdamW.hypers, "beta2": fraction(0.95)}),
    }
    nesterov: bool = True
    ns_steps: int = 5
    ns_dtype: torch.dtype | None = None
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("adjust_lr", self.adjust_lr, ("original", "match_rms_adamw"))
        if not (isinstance(self.ns_steps, int) and self.ns_steps >= 1):
            raise ValueError(f"ns_steps must be an integer >= 1; got {self.ns_steps!r}")

    @property
    def fallback(self) -> Rule:
        return AdamW()

    def init(self, param: Tensor) -> State:
        return {"mean": zeros_like(param)}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        mean = ema(state["mean"], grad, hyper["momentum"])
        ahead = ema(mean, grad, hyper["momentum"]) if self.nesterov else mean
        return self.scale(param) * orthogonalise(ahead, self.ns_steps, self.ns_dtype), {"mean": mean}

    def scale(self, param: Tensor) -> float:
        """The factor that makes one learning rate serve matrices of every shape."""
        rows, cols = param.shape
        if self.adjust_lr == "original":
            return max(1.0, rows / cols) ** 0.5
        return 0.2 * max(rows, cols) ** 0.5


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

"""The fixed problem on which rules are compared: closed-form weights and gradients in float64."""

import torch


def weights(rows: int, cols: int) -> torch.Tensor:
    """W = sin(k), k = 1 ... rows * cols, in rows."""
    k = torch.arange(1, rows * cols + 1, dtype=torch.float64)
    return k.sin().reshape(rows, cols)


def gradient(rows: int, cols: int, t: int) -> torch.Tensor:
    """g_t = cos(t k)."""
    k = torch.arange(1, rows * cols + 1, dtype=torch.float64)
    return (t * k).cos().reshape(rows, cols)


def fingerprint(w: torch.Tensor) -> tuple[float, float, float, float]:
    """Sum, sum of squares, first and last entry."""
    return w.sum().item(), w.square().sum().item(), w.flatten()[0].item(), w.flatten()[-1].item()


def run(optimizer_class, steps=3, rows=3, cols=4, **options) -> torch.Tensor:
    """The weights after ``steps`` steps of an optimizer class."""
    w = torch.nn.Parameter(weights(rows, cols))
    optimizer = optimizer_class([w], **options)
    for t in range(1, steps + 1):
        w.grad = gradient(rows, cols, t)
        optimizer.step()
    return w.detach()

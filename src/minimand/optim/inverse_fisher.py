"""Products with the inverse of an empirical Fisher matrix that is never formed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from minimand._checks import check_count, check_floating, check_same_device, check_same_shape
from minimand._numerics import downcast, widest
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

MFAC = Source(
    "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    "Frantar et al.",
    2021,
    "2107.03356",
    "static algorithm",
)
DAMPING = HyperSpec(1e-5, low=0.0, closed="neither")  # the authors' code's
SPARSITY = HyperSpec(0.5, low=0.0, high=1.0)


@from_paper(MFAC)
class InverseFisher:
    """The inverse of F = damping I + (1/m) sum_i g_i g_i^T, by products with the m gradients g_i alone.

    F^{-1} x = (x - G^T K^{-1} G x) / damping, with G (m, d) the gradients and K = m damping I + G G^T. Making it
    takes O(d m^2 + m^3) operations, a product O(d m). With ``block_size`` F keeps the blocks of that many neighbouring
    coordinates along its diagonal and is zero elsewhere; each block costs as if it stood alone.

    Args:
        gradients: (m, d), a gradient a row; such as the per-sample gradients of a loss.
        damping: above 0, in squared units of the gradients.
        block_size: coordinates in a block, the last of which may be shorter; None for one block.

    Computed in float64 and answered in the type of what is given; the gradients are held in 8 m d bytes. A damping
    under the rounding of G G^T is raised to that.

    Raises:
        TypeError, ValueError: gradients that are no (m, d) numbers with m >= 1, damping or block size out of range.

    Source: Frantar et al. (2021), arXiv:2107.03356, static algorithm. The paper finds the same products by a recursion
    over the gradients, at the same cost; here a Cholesky factor solves the Woodbury identity.

    >>> fisher = InverseFisher(torch.tensor([[1.0, 0.0]]), damping=1.0)  # F = diag(2, 1)
    >>> fisher.mul(torch.tensor([3.0, 4.0])), fisher.diag()
    (tensor([1.5000, 4.0000]), tensor([0.5000, 1.0000]))
    """

    def __init__(self, gradients: Tensor, damping: float | Tensor, block_size: int | None = None) -> None:
        check_floating("gradients", gradients, ndim=2)
        if gradients.shape[0] == 0:
            raise ValueError(f"gradients must have shape (m, d) with m >= 1; got {tuple(gradients.shape)}")
        DAMPING.check("damping", damping)
        if block_size is not None:
            check_count("block_size", block_size)
        count, self.dim = gradients.shape
        self.dtype, self.damping = gradients.dtype, damping
        self._size = block_size or max(self.dim, 1)
        self._gradients = self._in_blocks(gradients)  # (blocks, m, size)
        self._factor = damped_cholesky(self._gradients @ self._gradients.mT, count * damping)

    def mul(self, x: Tensor) -> Tensor:
        """F^{-1} x, for x (..., d) one product a row."""
        check_floating("x", x)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (..., {self.dim}); got {tuple(x.shape)}")
        check_same_device(gradients=self._gradients, x=x)
        columns = self._in_blocks(x.reshape(-1, self.dim)).mT  # (blocks, size, rows)
        seen = torch.cholesky_solve(self._gradients @ columns, self._factor)
        return downcast(self._joined((columns - self._gradients.mT @ seen).mT).reshape(x.shape), x.dtype)

    def diag(self) -> Tensor:
        """The diagonal of F^{-1}, (d,): (1 - g_(i)^T K^{-1} g_(i)) / damping with g_(i) the i-th column of G."""
        seen = torch.linalg.solve_triangular(self._factor, self._gradients, upper=False)
        return downcast(self._joined(1 - seen.square().sum(1, keepdim=True))[0], self.dtype)

    def columns(self, index: Tensor) -> Tensor:
        """The columns of F^{-1} at ``index`` (k,), as (d, k)."""
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            raise TypeError(f"index must be an int64 tensor; got {getattr(index, 'dtype', type(index).__name__)}")
        if index.ndim != 1:
            raise ValueError(f"index must have shape (k,); got {tuple(index.shape)}")
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.dim):
            raise ValueError(f"index must lie in [0, {self.dim}); got {index.tolist()}")
        units = torch.zeros(len(index), self.dim, dtype=self.dtype, device=index.device)
        return self.mul(units.scatter(1, index[:, None], 1.0)).mT

    def _in_blocks(self, rows: Tensor) -> Tensor:
        """(rows, d) as (blocks, rows, size) in float64, zeros after the last coordinate."""
        rows = torch.nn.functional.pad(widest(rows), (0, -self.dim % self._size))
        return rows.unflatten(1, (-1, self._size)).movedim(1, 0)

    def _joined(self, blocks: Tensor) -> Tensor:
        """(blocks, rows, size) as (rows, d), over the damping."""
        return blocks.movedim(0, 1).flatten(1)[:, : self.dim] / self.damping


def damped_cholesky(gram: Tensor, damping: float | Tensor) -> Tensor:
    """The Cholesky factor of gram + damping I, (..., m, m) in float64; NaN where there is none.

    Gradients that repeat make ``gram`` singular to rounding, and a smaller damping than rounding would leave it so:
    the damping is at least m eps times the trace.
    """
    count = gram.shape[-1]
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    shift = (count * torch.finfo(gram.dtype).eps * trace).clamp(min=damping)
    identity = torch.eye(count, dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram + shift[..., None, None] * identity)
    return torch.where((failed == 0)[..., None, None], factor, torch.nan)


@from_paper(replace(MFAC, where="one-shot pruning"))
def obs_prune(weights: Tensor, fisher: InverseFisher, sparsity: float) -> Tensor:
    """Set the least needed of ``weights`` (d,) to zero, and move the others so that the loss rises least.

    The round(sparsity d) weights of least saliency w_i^2 / (2 [F^{-1}]_ii) are removed, the set Q. Each moves all by
    -w_i F^{-1} e_i / [F^{-1}]_ii; several at once by the sum of these, after which Q is set to zero.

    Args:
        weights: (d,), where the gradients of ``fisher`` were taken.
        fisher: the damped empirical Fisher matrix, in place of the Hessian.
        sparsity: share of the weights to remove, in [0, 1].

    Source: Frantar et al. (2021), arXiv:2107.03356, one-shot pruning: the Optimal Brain Surgeon with that matrix.

    >>> fisher = InverseFisher(torch.tensor([[1.0, 1.0]]), damping=1.0)  # F^{-1} = [[2, -1], [-1, 2]] / 3
    >>> obs_prune(torch.tensor([2.0, 3.0]), fisher, sparsity=0.5)  # the second takes over half of the first
    tensor([0., 4.])
    """
    check_floating("weights", weights, ndim=1)
    if not isinstance(fisher, InverseFisher):
        raise TypeError(f"fisher must be an InverseFisher; got {type(fisher).__name__}")
    SPARSITY.check("sparsity", sparsity)
    diagonal = fisher.diag().to(widest(weights).dtype)
    check_same_device(weights=weights, fisher=diagonal)
    check_same_shape(fisher=diagonal, weights=weights)
    wide = widest(weights)
    removed = (wide.square() / (2 * diagonal)).topk(round(sparsity * len(wide)), largest=False).indices
    gone = torch.zeros_like(wide, dtype=torch.bool).index_fill(0, removed, True)
    moved = wide - fisher.mul(torch.where(gone, wide / diagonal, 0))
    return downcast(torch.where(gone, 0, moved), weights.dtype)

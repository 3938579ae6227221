"""Curvature of a module's loss on a data set, as a matrix that is known by its products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minimand._checks import check_choice, check_count, check_floating, check_same_device
from minimand._numerics import downcast, widest
from minimand.optim.curvature import SPECTRUM, empirical_fisher_vp, fisher_vp, ggn_vp, hvp
from minimand.optim.objective import Composite, Params, flatten, module_objective, unflatten, value_and_gradient
from minimand.source import from_paper

PRODUCTS: dict[str, Callable[[Composite, Params, Params], Params]] = {
    "hessian": hvp,
    "gauss_newton": ggn_vp,
    "fisher": lambda objective, params, vector: fisher_vp(objective.outputs, params, vector),
    "empirical_fisher": empirical_fisher_vp,
    "gradient_covariance": empirical_fisher_vp,  # less the mean gradient's part, once the whole data are seen
}
SAME_DATA = 1e-9  # how far apart, relative, rounding may bring two passes' float64 sums over the data

Batches = Iterable[tuple[Any, Tensor]]  # of (inputs, target); inputs a tensor or a tuple of tensors


@from_paper(SPECTRUM)
class CurvatureOperator:
    """A matrix (d, d) of a module's mean loss over a data set, by products alone: ``operator @ v``.

    A product reads the data once, whatever the number of columns of v, and adds up batch by batch: it holds v, the
    answer, and the activations of one batch for ``columns`` of them. The parameters are those of the module's making:
    a copy is taken, and training may go on.

    - ``"hessian"``: the second derivatives of the loss;
    - ``"gauss_newton"``: J^T L J, the same without the outputs' own curvature;
    - ``"fisher"``: that of the softmax of the outputs, whatever loss and target are;
    - ``"empirical_fisher"``: the samples' gradients' second moment;
    - ``"gradient_covariance"``: the same around their mean.

    Args:
        module: in evaluation mode, if it has dropout or running statistics.
        loss: (outputs, target) -> the mean over the batch's samples, or one number a sample (b,), which the last two
            kinds need. A loss that divides by something else, such as a batch's class weights, makes a matrix that
            depends on how the data are cut into batches.
        data: batches (inputs, target), inputs a tensor or a tuple of tensors, moved to the parameters' device. It is
            read anew for every product and must hold the same samples each time, in any order: a list or a
            ``DataLoader``, without random augmentation, and without ``drop_last`` if it shuffles.
        kind: which matrix.
        params: the parameters that the matrix is of, by name, in its order of rows; all of the module's that require
            a gradient unless given. In float64, everything is computed in that.
        columns: how many columns of v are worked on at once; more are faster and take more memory.

    Raises:
        TypeError, ValueError: for data that come once or differ between products, for a v that does not fit, and as
            ``module_objective``.

    ``curvlinops`` has the same matrices for PyTorch's own losses, and is the tool for KFAC and EKFAC, their inverses,
    and SciPy's interface. Products agree, in about the same time and memory; the ones here take any loss, check data
    by what they hold, and as functions run under ``torch.func.vmap`` and ``torch.compile``. PyTorch's fused attention
    kernels have no second derivative: choose ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` around a product.

    Source: Sagun et al. (2017), arXiv:1706.04454.

    >>> module = nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
    >>> data = [(x[:1], torch.zeros(1, 1)), (x[1:], torch.zeros(1, 1))]
    >>> operator = CurvatureOperator(module, nn.MSELoss(), data)
    >>> operator @ torch.eye(2).double()  # 2 x^T x / 2
    tensor([[1., 0.],
            [0., 4.]], dtype=torch.float64)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: Batches,
        kind: Literal["hessian", "gauss_newton", "fisher", "empirical_fisher", "gradient_covariance"] = "hessian",
        params: Mapping[str, Tensor] | None = None,
        columns: int = 8,
    ) -> None:
        check_choice("kind", kind, PRODUCTS)
        if isinstance(data, Iterator):
            raise TypeError(f"data must be read anew for every product, as a list or a DataLoader; got {type(data)}")
        check_count("columns", columns)
        own = {name: param for name, param in module.named_parameters() if param.requires_grad}
        self.params = {name: param.detach().clone() for name, param in (own if params is None else params).items()}
        if not self.params:
            raise ValueError("params must hold at least one tensor; got none")
        check_same_device(**self.params)
        first = next(iter(self.params.values()))
        self.module, self.loss, self.data, self.kind, self.columns = module, loss, data, kind, columns
        self.dtype, self.device = first.dtype, first.device
        self.dim = sum(param.numel() for param in self.params.values())
        self._seen: Tensor | None = None
        self._gradient: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return (self.dim, self.dim)

    def __matmul__(self, v: Tensor) -> Tensor:
        """The product with v (d,) or (d, k), in its type."""
        check_floating("v", v)
        if v.ndim not in (1, 2) or v.shape[0] != self.dim:
            raise ValueError(f"v must have shape ({self.dim},) or ({self.dim}, k); got {tuple(v.shape)}")
        check_same_device(params=next(iter(self.params.values())), v=v)
        found = self._mean(self._times(v.detach().reshape(self.dim, -1))).reshape(v.shape)
        if self.kind == "gradient_covariance":
            mean = widest(self.gradient())
            found = found - torch.tensordot(mean, mean @ widest(v), 0)
        return downcast(found, v.dtype)

    __call__ = __matmul__

    def gradient(self) -> Tensor:
        """(d,): the gradient of the mean loss over the data, which is read for it once."""
        if self._gradient is None:
            mean = self._mean(lambda objective: flatten(value_and_gradient(objective, self.params)[1]))
            self._gradient = downcast(mean, self.dtype)
        return self._gradient

    def _times(self, columns: Tensor) -> Callable[[Composite], Tensor]:
        """A batch's objective -> its matrix times ``columns`` (d, k)."""

        def product(objective: Composite) -> Tensor:
            def times(column: Tensor) -> Tensor:
                vector = {
                    name: part.to(self.params[name].dtype) for name, part in unflatten(column, self.params).items()
                }
                return flatten(PRODUCTS[self.kind](objective, self.params, vector))

            if columns.shape[1] == 1:
                return times(columns[:, 0])[:, None]
            return torch.func.vmap(times, in_dims=1, out_dims=1, chunk_size=self.columns)(columns)

        return product

    def _mean(self, of: Callable[[Composite], Tensor]) -> Tensor:
        """The mean over samples of what a batch's mean loss gives, in float64."""
        total, seen = None, []
        for inputs, target in self.data:
            inputs = tuple(x.to(self.device) for x in (inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
            target = target.to(self.device)
            if len(target) == 0:
                continue
            part = widest(of(module_objective(self.module, self.loss, inputs, target))) * len(target)
            total = part if total is None else total.add_(part)
            seen.append(_sums((*inputs, target)))
        if total is None:
            raise ValueError("data must hold at least one sample; got none")
        seen = torch.stack(seen).sum(0)
        self._check_same(seen)
        return total / seen[0]

    def _check_same(self, seen: Tensor) -> None:
        """Products with different data would be of different matrices."""
        if self._seen is None:
            self._seen = seen
        apart = (seen - self._seen).abs() > SAME_DATA * self._seen[-1].clamp(min=self._seen[0])
        if bool(apart.any()):
            before, now = (f"{int(n)} that add up to {float(of):.10g}" for n, of, _ in (self._seen, seen))
            raise ValueError(f"data must hold the same samples in every pass; got {before}, then {now}")


def _sums(batch: tuple[Tensor, ...]) -> Tensor:
    """(3,): how many samples, the sum of all their numbers, and of the numbers' sizes."""
    numbers = [widest(part) for part in batch]
    parts = [torch.as_tensor(len(batch[-1])).to(numbers[0]), sum(x.sum() for x in numbers)]
    return torch.stack([*parts, sum(x.abs().sum() for x in numbers)])  # type: ignore[list-item]

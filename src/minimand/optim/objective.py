"""Objectives: what solvers minimise, functions of named parameters, some of which know the outputs they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minimand._checks import check_tensor

Params = dict[str, Tensor]
Objective = Callable[[Params], Tensor]


@dataclass(frozen=True)
class Composite:
    """f(params) = loss(outputs(params)): an objective that knows its outputs.

    ``outputs`` is {name: tensor} -> (N, ...), a row a sample; ``loss`` takes these and gives one number, or one number
    a sample (N,), of which the objective is then the mean. Curvature a sample needs the latter.

    >>> objective = Composite(lambda params: params["w"] * torch.tensor([1.0, 2.0]), torch.square)
    >>> objective({"w": torch.tensor(2.0)})  # (2^2 + 4^2) / 2
    tensor(10.)
    """

    outputs: Callable[[Params], Tensor]
    loss: Callable[[Tensor], Tensor]

    def __call__(self, params: Params) -> Tensor:
        """The objective, a scalar."""
        return self.value(self.outputs(params))

    def value(self, outputs: Tensor) -> Tensor:
        """The objective, a scalar, where the outputs are ``outputs``."""
        return self._checked(outputs).mean()

    def per_sample(self, outputs: Tensor) -> Tensor:
        """One loss a sample (N,). ValueError where ``loss`` gives their mean or sum alone."""
        loss = self._checked(outputs)
        if loss.ndim != 1:
            raise ValueError('loss must give one number a sample, as with reduction="none"; got a single number')
        return loss

    def _checked(self, outputs: Tensor) -> Tensor:
        loss = check_tensor("loss(outputs)", self.loss(outputs))
        if loss.ndim > 1 or (loss.ndim == 1 and (outputs.ndim == 0 or loss.shape[0] != outputs.shape[0])):
            wanted = f"a scalar or have shape {tuple(outputs.shape[:1])}, one number a sample"
            raise ValueError(f"loss(outputs) must be {wanted}; got {tuple(loss.shape)}")
        if loss.numel() == 0:
            raise ValueError("outputs must hold at least one sample; got none")
        return loss


def module_objective(
    module: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    target: Tensor,
) -> Composite:
    """The loss of a module on these samples, as a function of its parameters.

    The module itself is left as it is. Its parameters are where a solver starts, and what a solver finds goes back
    with ``load_state_dict``. Parameters that are not handed over keep the values they have. Everything is computed in
    the type of the parameters that are: give them in float64 and a float32 module is evaluated in float64.

    Args:
        module: a module that draws no random numbers and updates no buffers: in evaluation mode, if it has such.
        loss: ``(outputs, target)`` -> a scalar, or one number a sample (N,), whose mean is minimised.
        inputs: what the module is called with.
        target: what the loss takes beside the outputs.

    Raises:
        ValueError: for a module in training mode with dropout or running statistics.

    >>> module = nn.Linear(1, 1)
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> objective = module_objective(module, nn.MSELoss(), x, 3 * x + 1)
    >>> objective({"weight": torch.tensor([[3.0]]), "bias": torch.tensor([2.0])})
    tensor(1.)
    """
    _check_repeatable(module)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)

    def outputs(params: Params) -> Tensor:
        dtype = next(iter(params.values())).dtype
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        kept = {name: _cast(value.detach(), dtype) for name, value in own.items() if name not in params}
        return torch.func.functional_call(module, (params, kept), tuple(_cast(x, dtype) for x in inputs))

    def charged(found: Tensor) -> Tensor:
        return loss(found, _cast(target, found.dtype))

    return Composite(outputs, charged)


def _check_repeatable(module: nn.Module) -> None:
    """An objective must give the same value twice."""
    for name, part in module.named_modules():
        keeps = isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats
        draws = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
        if part.training and (keeps or draws):
            where = f"{type(part).__name__} at {name or 'the top'!r} in training mode"
            raise ValueError(f"module must draw and update nothing, as after module.eval(); got {where}")


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating-point tensors in ``dtype``; indices as they are."""
    return value.to(dtype) if value.is_floating_point() else value


def pullback(function: Callable[[Params], Tensor], params: Params) -> tuple[Tensor, Callable[[Tensor], Params]]:
    """The function's value, and ``pull(weights)``: the gradient of the value's sum under these weights, once.

    It is zero for parameters that have no influence. What ``torch.func.vjp`` gives, without its start-up time.
    """
    given = {name: param.detach().requires_grad_() for name, param in params.items()}
    with torch.enable_grad():
        value = function(given)

    def pull(weights: Tensor) -> Params:
        if not value.requires_grad:
            return {name: torch.zeros_like(param) for name, param in params.items()}
        found = torch.autograd.grad(value, list(given.values()), weights, allow_unused=True, materialize_grads=True)
        return dict(zip(given, found, strict=True))

    return value.detach(), pull


def value_and_gradient(objective: Objective, params: Params) -> tuple[Tensor, Params]:
    """The objective's value, a scalar, and its gradient."""
    value, pull = pullback(objective, params)
    if value.ndim:
        raise ValueError(f"objective must give a scalar; got shape {tuple(value.shape)}")
    return value, pull(torch.ones_like(value))


def norm(params: Params) -> Tensor:
    """The Euclidean length of all tensors together, in float64."""
    lengths = [torch.linalg.vector_norm(part.double()) for part in params.values()]
    return lengths[0] if len(lengths) == 1 else torch.linalg.vector_norm(torch.stack(lengths))


def flatten(params: Params) -> Tensor:
    """All tensors end to end, in order, as one vector (d,)."""
    return torch.cat([part.reshape(-1) for part in params.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """What ``flatten`` made of tensors shaped as those of ``like``, as they were."""
    parts = vector.split([part.numel() for part in like.values()])
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}

"""First layers whose step moves their pre-activations, whatever the contrast of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand._checks import check_floating, check_same_device
from minimand._numerics import downcast, upcast
from minimand.hyper import HyperSpec, LogUniform
from minimand.optim.inverse_fisher import damped_cholesky
from minimand.source import Source, from_paper

TRACT = Source("TrAct: Making First-layer Pre-Activations Trainable", "Petersen et al.", 2024, "2410.23970")
LAM = HyperSpec(0.1, low=0.0, closed="neither", search=LogUniform(1e-3, 1e1))
Window = tuple[Sequence[int], Sequence[int], Sequence[int]]  # a convolution's kernel size, dilation and stride


@from_paper(replace(TRACT, where="the closed form of its weight update"))
def tract_gradient(dz: Tensor, x: Tensor, lam: float = 0.1) -> Tensor:
    """What takes the place of the weight's gradient dz^T x in a layer z = x W^T.

    dz^T x (x^T x / b + lam I_n)^{-1}

    A step of -eta times it is the ridge regression on x, with penalty b lam, of the step -eta b dz that the
    pre-activations would take by themselves: the weight follows the direction of an input and not its size. As lam
    grows, lam times it becomes the gradient. Where b < n the equal dz^T (x x^T / b + lam I_b)^{-1} x is solved.

    Args:
        dz: (b, m), the gradient of a mean loss over the batch in the pre-activations.
        x: (b, n), the layer's inputs.
        lam: above 0, in units of x^2. Where it is less than the matrix's rounding, it is held at that.

    Returns:
        (m, n) in dz's type, from a Cholesky solution in float32 or wider; zeros where b is 0.

    Raises:
        ValueError, TypeError: for shapes, types, devices or a ``lam`` that do not fit.

    Source: Petersen et al. (2024), arXiv:2410.23970, the closed form of its weight update. The authors' code has an
    option that takes the matrix for its own Cholesky factor; here it is factored.

    >>> tract_gradient(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]]), lam=0.5)  # 2 / (4 / 2 + 0.5)
    tensor([[0.8000]])
    """
    LAM.check("lam", lam)
    check_floating("dz", dz, ndim=2)
    check_floating("x", x, ndim=2)
    if x.shape[0] != dz.shape[0]:
        raise ValueError(f"x must have shape ({dz.shape[0]}, n) to match dz; got {tuple(x.shape)}")
    check_same_device(dz=dz, x=x)
    count, width = x.shape
    wide, inputs = upcast(dz), upcast(x).to(upcast(dz).dtype)
    if count == 0:
        found = wide.mT @ inputs
    elif count < width:
        factor = damped_cholesky(inputs @ inputs.mT / count, lam)
        found = torch.cholesky_solve(wide, factor).mT @ inputs
    else:
        factor = damped_cholesky(inputs.mT @ inputs / count, lam)
        found = torch.cholesky_solve(inputs.mT @ wide, factor).mT
    return downcast(found, dz.dtype)


class _Activations(torch.autograd.Function):
    """z as it is; its gradient also reaches the weight, by ``tract_gradient`` on the layer's inputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, weight: Tensor, inputs: Tensor, lam: float, window: Window | None) -> Tensor:
        return z.clone()  # a view could not be overwritten by an activation in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, layer_inputs, ctx.lam, ctx.window = inputs
        ctx.save_for_backward(weight, layer_inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (dz,) = grads
        weight, x = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return dz, None, None, None, None
        if ctx.window is None:
            rows, columns = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
        else:
            kernel, dilation, stride = ctx.window
            patches = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (N, n, positions)
            rows, columns = patches.mT.reshape(-1, patches.shape[1]), dz.flatten(2).mT.reshape(-1, dz.shape[1])
        found = tract_gradient(upcast(columns), rows, ctx.lam).reshape(weight.shape)
        return dz, downcast(found, weight.dtype), None, None, None


@from_paper(TRACT)
class TrActLinear(nn.Linear):
    """``nn.Linear`` whose weight gets ``tract_gradient`` in place of its gradient; everything else is as there.

    For a network's first layer, whose inputs are not normalised. Inputs are (..., n), each of them a row of the
    batch. The gradient in the weight is no derivative of the loss by design: it fits losses that are means over
    the batch, and depends on the batch's size, so that accumulated gradients and those of data-parallel workers are
    each made from their own share of it. Second derivatives do not pass through the weight.

    Args:
        lam: as in ``tract_gradient``; the others are those of ``nn.Linear``, and the state is the same.

    Source: Petersen et al. (2024), arXiv:2410.23970.

    >>> layer = TrActLinear(1, 1, bias=False, lam=0.5)
    >>> layer(torch.tensor([[2.0], [0.0]])).mean().backward()
    >>> layer.weight.grad  # dz is 1/2, and 1 / (4 / 2 + 0.5); the gradient itself is 1
    tensor([[0.4000]])
    """

    def __init__(self, *args: Any, lam: float = 0.1, **kwargs: Any) -> None:
        LAM.check("lam", lam)
        super().__init__(*args, **kwargs)
        self.lam = lam

    def forward(self, input: Tensor) -> Tensor:
        """Pre-activations (..., m) of inputs (..., n)."""
        if not self.weight.requires_grad:
            return super().forward(input)
        _check_inputs(input, self.in_features, 1, "(..., {})")
        z = F.linear(input, self.weight.detach(), self.bias)
        return _Activations.apply(z, self.weight, input.detach(), self.lam, None)

    def extra_repr(self) -> str:
        """The options, ``lam`` the last of them."""
        return f"{super().extra_repr()}, lam={self.lam:g}"


@from_paper(TRACT)
class TrActConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose weight gets ``tract_gradient`` in place of its gradient; everything else is as there.

    The rows are the patches that the kernel sees, b their number: images times positions. Stride, padding of every
    mode and dilation are kept. What ``TrActLinear`` says of batches holds here too.

    Args:
        lam: as in ``tract_gradient``; the others are those of ``nn.Conv2d``, and the state is the same.

    Raises:
        ValueError: for groups > 1, whose patches are not the inputs of all outputs.

    Source: Petersen et al. (2024), arXiv:2410.23970. The authors' converter drops dilation, padding mode and groups.

    >>> layer = TrActConv2d(1, 1, kernel_size=1, bias=False, lam=0.5)
    >>> layer(torch.tensor([[[[2.0, 0.0]]]])).mean().backward()
    >>> layer.weight.grad.item()
    0.4000000059604645
    """

    def __init__(self, *args: Any, lam: float = 0.1, **kwargs: Any) -> None:
        LAM.check("lam", lam)
        super().__init__(*args, **kwargs)
        if self.groups != 1:
            raise ValueError(f"groups must be 1; got {self.groups}")
        self.lam = lam

    def forward(self, input: Tensor) -> Tensor:
        """Pre-activations (N, m, H', W') of images (N, c, H, W), or of one image without N."""
        if not self.weight.requires_grad:
            return super().forward(input)
        _check_inputs(input, self.in_channels, 3, "(N, {}, H, W)")
        batch = input if input.ndim == 4 else input[None]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(batch, self._reversed_padding_repeated_twice, mode)
        z = F.conv2d(padded, self.weight.detach(), self.bias, self.stride, 0, self.dilation)
        window = (self.kernel_size, self.dilation, self.stride)
        z = _Activations.apply(z, self.weight, padded.detach(), self.lam, window)
        return z if input.ndim == 4 else z[0]

    def extra_repr(self) -> str:
        """The options, ``lam`` the last of them."""
        return f"{super().extra_repr()}, lam={self.lam:g}"


@from_paper(TRACT)
def tract(module: nn.Linear | nn.Conv2d, lam: float = 0.1) -> TrActLinear | TrActConv2d:
    """``module`` as a layer of the same function and the same parameters, not copies, that TrAct trains.

    Source: Petersen et al. (2024), arXiv:2410.23970.

    >>> network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> network[0] = tract(network[0])
    >>> network[0]
    TrActLinear(in_features=64, out_features=32, bias=True, lam=0.1)
    """
    bias = getattr(module, "bias", None) is not None
    found: TrActLinear | TrActConv2d
    if isinstance(module, nn.Linear):
        found = TrActLinear(module.in_features, module.out_features, bias, device="meta", lam=lam)
    elif isinstance(module, nn.Conv2d):
        found = TrActConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
            bias,
            module.padding_mode,
            device="meta",
            lam=lam,
        )
    else:
        raise TypeError(f"module must be an nn.Linear or nn.Conv2d; got {type(module).__name__}")
    found.load_state_dict(module.state_dict(keep_vars=True), assign=True)
    return found.train(module.training)


def _check_inputs(value: Tensor, size: int, known: int, wanted: str) -> None:
    check_floating("input", value)
    if value.ndim < known or value.shape[-known] != size or (known == 3 and value.ndim > 4):
        raise ValueError(f"input must have shape {wanted.format(size)}; got {tuple(value.shape)}")

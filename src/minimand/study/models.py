"""What is trained: small networks by name, and the user's own by ``module:factory``.

The named ones take flat inputs (N, features) and hold neither dropout nor batch statistics, so that the batched
engine can stack them.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minimand.study.names import unknown
from minimand.study.task import Factory

HIDDEN = 64


def linear(num_features: int, num_outputs: int) -> nn.Module:
    """One affine map: softmax regression, or linear regression.

    >>> linear(4, 3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """
    return nn.Linear(num_features, num_outputs)


def mlp(num_features: int, num_outputs: int) -> nn.Module:
    """Two hidden layers of 64 rectified units.

    >>> sum(p.numel() for p in mlp(64, 10).parameters())
    8970
    """
    return nn.Sequential(
        nn.Linear(num_features, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_outputs),
    )


def cnn(num_features: int, num_outputs: int, shape: tuple[int, int, int] | None = None) -> nn.Module:
    """Two 3 x 3 convolutions of 16 and 32 channels, averaged down to at most 4 x 4, and a hidden layer of 64.

    Inputs are flat and are laid out as ``shape`` (channels, height, width); without it as one square channel.
    ValueError where the features are no such picture.

    >>> cnn(64, 10)(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    """
    side = math.isqrt(num_features)
    if shape is None and (side < 2 or side * side != num_features):
        raise ValueError(
            f"model 'cnn' takes pictures: (N, H, W) or (N, C, H, W) arrays, or a square number of features; "
            f"got {num_features} features"
        )
    channels, height, width = shape or (1, side, side)
    if channels * height * width != num_features:
        raise ValueError(f"shape {shape} holds {channels * height * width} features; got {num_features}")
    rows, columns = min(4, height), min(4, width)
    return nn.Sequential(
        nn.Unflatten(1, (channels, height, width)),
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((rows, columns)),
        nn.Flatten(),
        nn.Linear(32 * rows * columns, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_outputs),
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "linear": linear, "cnn": cnn}


@dataclass(frozen=True)
class ImportedModel:
    """The user's own factory, ``module:factory``, found from ``directory`` as well as from the path.

    It is kept by name, so that worker processes import it for themselves.
    """

    name: str
    directory: str

    def __call__(self, num_features: int, num_outputs: int) -> nn.Module:
        """What ``factory(num_features, num_outputs)`` returns; ValueError unless that is a module."""
        module = self.load()(num_features, num_outputs)
        if not isinstance(module, nn.Module):
            raise ValueError(f"model {self.name!r} must return a torch.nn.Module; got {type(module).__name__}")
        return module

    def load(self) -> Callable[..., Any]:
        """Import the factory. This runs the user's code."""
        module_name, _, attribute = self.name.partition(":")
        if self.directory not in sys.path:
            sys.path.insert(0, self.directory)
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise ValueError(f"model {self.name!r}: importing {module_name} failed: {_last_line(error)}") from error
            raise ValueError(
                f"model {self.name!r}: no module {module_name!r} in {self.directory} or on the path"
            ) from error
        except Exception as error:
            raise ValueError(f"model {self.name!r}: importing {module_name} failed: {_last_line(error)}") from error
        factory = getattr(found, attribute, None)
        if factory is None:
            public = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
            raise ValueError(f"model {self.name!r}: " + unknown(f"factory in {module_name}", attribute, public))
        if not callable(factory):
            raise ValueError(f"model {self.name!r}: {attribute} must be callable; got {type(factory).__name__}")
        return factory


def model(name: str | Factory, shape: tuple[int, int, int] | None = None) -> Factory:
    """The factory called ``name``: "mlp", "linear", "cnn" or "module:factory"; a factory is handed back as it is.

    ``shape`` is what "cnn" lays its flat inputs out as.

    >>> model("mlp") is mlp
    True
    """
    if not isinstance(name, str):
        if not callable(name):
            raise TypeError(f"model must be a name or a factory(num_features, num_outputs); got {type(name).__name__}")
        return name
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        if not (attribute.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
            raise ValueError(f"model must be mlp, linear, cnn or module:factory; got {name!r}")
        imported = ImportedModel(name, str(Path.cwd()))
        imported.load()
        return imported
    if name not in MODELS:
        raise ValueError(unknown("model", name, [*MODELS, "module:factory"]))
    return functools.partial(cnn, shape=shape) if name == "cnn" and shape is not None else MODELS[name]


def check_model(factory: Factory, inputs: Tensor, num_features: int, num_outputs: int) -> None:
    """ValueError unless the factory's module maps two rows of ``inputs`` to (2, num_outputs) numbers.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = factory(num_features, num_outputs).eval()
        try:
            out = module(inputs[:2])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shape = tuple(inputs.shape[1:])
            raise ValueError(f"model cannot take inputs of shape (N, {', '.join(map(str, shape))}): {error}") from error
    if not isinstance(out, Tensor) or tuple(out.shape) != (len(inputs[:2]), num_outputs):
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"model must return outputs of shape (N, {num_outputs}); got {got} for N = 2")


def summary(name: str) -> str:
    """What a named model is, in one line."""
    return (MODELS[name].__doc__ or "").strip().splitlines()[0]


def _last_line(error: BaseException) -> str:
    """The error and where the user's code raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"

"""Step time of the update rules over torch's fused AdamW, on the 6.3M parameters of a small transformer.

On a GPU where there is one. Beside each rule its peer, and the floor: the time in which the machine moves the bytes
that a step cannot do without (``minimand.optim.step_bytes``), at the bandwidth measured in the same rounds; what
stays in the processor's cache may be faster. Gradients change from step to step: constant ones drive moments into
denormal numbers, which are slow. What happens at a refresh alone, such as Conda's and FRUGAL's decompositions, falls
into the warm-up and is not timed; nor are the estimates that Sophia observes. M-FAC, whose window of 1024 gradients
would take 26 GB here, has one of 16.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import pytorch_optimizer
import torch
from measure import interleaved, ratio, record
from torch import nn

from minimand.optim import RuleOptimizer, rules, step_bytes
from minimand.optim.rule import Rule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LR = {"lr": 1e-3}
BASELINE = "torch AdamW, fused"
PASS = 512 << 20  # bytes read and written to measure the bandwidth: more than any cache holds
# What has no say over the iterate's dtype would take float32 on a CPU; peers take bfloat16.
BRAIN = {"ns_dtype": torch.bfloat16}
RULES: dict[str, Rule] = {
    **{kind.__name__: kind() for kind in rules.RULES if kind.event == "element"},
    "AdamP": rules.AdamP(),
    "SGDP": rules.SGDP(),
    "AdaGradNorm": rules.AdaGradNorm(),
    "Muon": rules.Muon(**BRAIN),
    "NorMuon": rules.NorMuon(nesterov=True, scale="muon", **BRAIN),
    "Conda": rules.Conda(),
    "Frugal, svd": rules.Frugal(),
    "Frugal, columns": rules.Frugal(select="columns"),
    "MFAC, window 16": rules.MFAC(window=16),
}
Make = Callable[[list[nn.Parameter]], Any]
PEERS: dict[str, tuple[str, Make]] = {
    "SGD": ("torch SGD, fused", lambda p: torch.optim.SGD(p, fused=True, **LR)),
    "Momentum": ("torch SGD with momentum, fused", lambda p: torch.optim.SGD(p, momentum=0.9, fused=True, **LR)),
    "AdamW": (BASELINE, lambda p: torch.optim.AdamW(p, fused=True, **LR)),
    "AdaGrad": ("torch Adagrad, foreach", lambda p: torch.optim.Adagrad(p, foreach=True, **LR)),
    **{
        name: (f"pytorch_optimizer {name}", lambda p, name=name: getattr(pytorch_optimizer, name)(p, **LR))
        for name in ("AdaBelief", "DiffGrad", "Lion", "AdamP", "SGDP", "Conda")
    },
    "SignSGD": ("pytorch_optimizer SignSGD", lambda p: pytorch_optimizer.SignSGD(p, momentum=0.0, **LR)),
    "Muon": ("torch Muon, AdamW fused", lambda p: TorchMuon(p)),
    "NorMuon": ("torch Muon, AdamW fused", lambda p: TorchMuon(p)),
}


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 8, 1024)
    return list(nn.TransformerEncoder(layer, 8, enable_nested_tensor=False).to(DEVICE).parameters())


class TorchMuon:
    """torch.optim.Muon on the matrices and fused AdamW on the rest, as its documentation advises."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.matrices = torch.optim.Muon([p for p in params if p.ndim == 2])
        self.rest = torch.optim.AdamW([p for p in params if p.ndim != 2], fused=True)

    def step(self) -> None:
        """Step both."""
        self.matrices.step()
        self.rest.step()


def competitors(live: list[torch.Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every step by its name, each on parameters of its own and all on the gradients ``live``."""

    def stepper(make: Make) -> Callable[[], object]:
        params = parameters()
        for param, grad in zip(params, live, strict=True):
            param.grad = grad
        return make(params).step

    yield BASELINE, stepper(PEERS["AdamW"][1])
    yield "torch AdamW, foreach", stepper(lambda p: torch.optim.AdamW(p, foreach=True, **LR))
    for name, rule in RULES.items():
        if rule.event in ("element", "tensor"):
            yield f"{name}, compiled", stepper(lambda p, rule=rule: RuleOptimizer(p, rule, compile=True, **LR))
        yield name, stepper(lambda p, rule=rule: RuleOptimizer(p, rule, **LR))
    for name, make in dict(PEERS.values()).items():
        if name != BASELINE:
            yield name, stepper(make)


def moved(rule: Rule) -> float:
    """Bytes that one step of the model moves at least."""
    shapes = [tuple(p.shape) for p in parameters()]
    if rule.event == "vector":
        shapes = [(sum(map(prod, shapes)),)]
    return sum(prod(shape) * step_bytes(rule, shape) for shape in shapes)


def main(rounds: int = 30) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    pools = [[torch.randn_like(p) * 0.01 for p in parameters()] for _ in range(4)]
    live = [g.clone() for g in pools[0]]
    source = torch.randn(PASS // 8, device=DEVICE)
    # In place: writing to memory that was not read first costs a read of it too, which no formula asks for.
    steps = {"pass": lambda: source.add_(1.0), **dict(competitors(live))}
    seconds = interleaved(steps, rounds, before=lambda i: torch._foreach_copy_(live, pools[i % 4]))
    rows = []
    for step, times in list(seconds.items())[1:]:
        name = step.removesuffix(", compiled")
        passes = moved(RULES[name]) / PASS if name in RULES else None
        peer = PEERS[name][0] if name in PEERS else None
        rows.append(
            {
                "step": f"minimand {step}" if name in RULES else step,
                "ms": 1e3 * statistics.median(times),
                "over fused AdamW": ratio(seconds, step, BASELINE),
                "peer": peer or "",
                "over the peer": ratio(seconds, step, peer) if peer else "",
                "floor, ms": 1e3 * passes * statistics.median(seconds["pass"]) if passes else "",
                "over the floor": ratio(seconds, step, "pass") / passes if passes else "",
            }
        )
    record("rules" if DEVICE == "cpu" else "rules_gpu", rows)


if __name__ == "__main__":
    main()

"""Step time of the update rules over torch's fused AdamW, on the 6.3M parameters of a small transformer.

Gradients change from step to step: constant ones drive moments into denormal numbers, which are slow.
"""

from __future__ import annotations

import statistics
import warnings

import pytorch_optimizer
import torch
from measure import interleaved, ratio, record
from torch import nn

from minimand import optim

BYTES = {
    "AdamW": 28,
    "AdaBelief": 28,
    "DiffGrad": 36,
    "Lion": 20,
    "AdamP": 40,
    "Momentum": 20,
    "SGD": 12,
}


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 8, 1024)
    return list(nn.TransformerEncoder(layer, 8, enable_nested_tensor=False).parameters())


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    pools = [[torch.randn_like(p) * 0.01 for p in parameters()] for _ in range(4)]
    live = [g.clone() for g in pools[0]]

    def stepper(make):
        params = parameters()
        for param, grad in zip(params, live, strict=True):
            param.grad = grad
        return make(params).step

    lr = {"lr": 1e-3}
    competitors = {
        "torch AdamW, fused": stepper(lambda p: torch.optim.AdamW(p, fused=True, **lr)),
        "torch AdamW, foreach": stepper(lambda p: torch.optim.AdamW(p, foreach=True, **lr)),
    }
    for name in ("AdamW", "AdaBelief", "DiffGrad", "Lion"):
        rule = getattr(optim, name)
        competitors[f"minimand {name}, compiled"] = stepper(lambda p, rule=rule: rule(p, compile=True, **lr))
        competitors[f"minimand {name}"] = stepper(lambda p, rule=rule: rule(p, **lr))
    for name in ("AdaBelief", "DiffGrad", "Lion"):
        peer = getattr(pytorch_optimizer, name)
        competitors[f"pytorch_optimizer {name}"] = stepper(lambda p, peer=peer: peer(p, **lr))
    competitors["minimand Muon"] = stepper(lambda p: optim.Muon(p, ns_dtype=torch.bfloat16))
    competitors["torch Muon, AdamW fused"] = stepper(torch_muon)

    source = torch.randn(32 << 20)
    # In place: writing to memory that was not read first costs a read of it too, which no formula asks for.
    add = interleaved({"add": lambda: source.add_(1.0)}, rounds=10)["add"]
    bandwidth = 8 * source.numel() / statistics.median(add)
    seconds = interleaved(competitors, rounds=30, before=lambda i: torch._foreach_copy_(live, pools[i % 4]))
    count = sum(p.numel() for p in parameters())
    rows = []
    for name, times in seconds.items():
        moved = BYTES.get(name.replace("minimand ", "").replace(", compiled", "").split(",")[0])
        floor = moved * count / bandwidth if moved and name.startswith("minimand") else None
        rows.append(
            {
                "step": name,
                "ms": 1e3 * statistics.median(times),
                "over fused AdamW": ratio(seconds, name, "torch AdamW, fused"),
                "over the memory floor": statistics.median(times) / floor if floor else "",
            }
        )
    record("rules", rows)


def torch_muon(params):
    """torch.optim.Muon on the matrices and fused AdamW on the rest, as its documentation advises."""
    matrices = torch.optim.Muon([p for p in params if p.ndim == 2])
    rest = torch.optim.AdamW([p for p in params if p.ndim != 2], fused=True)

    class Both:
        def step(self):
            matrices.step()
            rest.step()

    return Both()


if __name__ == "__main__":
    main()

"""Update rules, what they are built from, and schedules."""

from __future__ import annotations

from minimand import optim
from minimand.optim import rules

from ..declare import part, rule
from ..takes import DIRECTION, MATRIX, NORMS, STEP

WARM = {"": {"total": 50}, "warm": {"total": 50, "warmup": 20}}
AT_LEAST_0 = {"plain": False, "wrong_options": {"total": -1, "warmup": -1}}

PARTS = [
    *part(rules.orthogonalise, MATRIX, {"ten": {"steps": 10}}, condition=3000.0, wrong_options={"steps": 0}),
    *part(
        rules.radial_projection,
        DIRECTION,
        {"": {"delta": 0.1}, "free": {"delta": 9.0}},
        plain=False,
        wrong_options={"delta": -1.0},
    ),
    *part(
        rules.scale_invariant_norm_growth,
        NORMS,
        {"": {"lr": 0.1, "beta": 0.9}, "plain": {"lr": 0.1, "beta": 0.0}},
        plain=False,
        wrong_options={"lr": -1.0, "beta": 1.0},
    ),
    *part(optim.constant, STEP, WARM, plain=False, wrong_options={"warmup": -1}),
    *part(optim.linear_decay, STEP, WARM, **AT_LEAST_0),
    *part(optim.cosine_decay, STEP, WARM, **AT_LEAST_0),
    *part(optim.inverse_sqrt, STEP, {"warm": WARM["warm"]}, plain=False, wrong_options={"warmup": -1}),
    *part(optim.inverse_time, STEP, {"warm": WARM["warm"]}, plain=False, wrong_options={"warmup": -1}),
    *part(optim.step_decay, STEP, {"warm": WARM["warm"]}, plain=False, wrong_options={"total": -1, "drops": (1.5,)}),
]

RULES = [
    *rule(rules.SGD, {"l2": {"decay": "l2"}}),
    *rule(rules.Momentum, {"nesterov": {"nesterov": True}}),
    *rule(rules.AdamW, {"l2": {"decay": "l2"}}),
    *rule(rules.AdaBelief),
    *rule(rules.DiffGrad),
    *rule(rules.AdamP, {"l2": {"decay": "l2"}}),
    *rule(rules.SGDP, {"nesterov": {"nesterov": True}}),
    *rule(rules.SignSGD),
    *rule(rules.Lion),
    *rule(rules.LionK, {kernel: {"kernel": kernel} for kernel in ("l2", "nuclear", "identity", "dead_zone")}),
    *rule(rules.Muon, {"plain": {"nesterov": False}, "rms": {"adjust_lr": "match_rms_adamw", "decay": "l2"}}),
    *rule(rules.AdaGrad),
    *rule(rules.AdaGradNorm),
]

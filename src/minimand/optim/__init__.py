"""Update rules as drop-in optimizers, and many training runs at once.

``AdaBelief(params, lr=1e-3)`` and its fellows are ``torch.optim.Optimizer``s; ``rules`` holds the same as pure
functions; ``BatchedTrainer`` trains hundreds of models with one rule together.
"""

from minimand.optim import rules
from minimand.optim.optimizer import RuleOptimizer, optimizer_of
from minimand.optim.rule import Rule
from minimand.optim.rules import matrix_groups, orthogonalise, radial_projection, scale_invariant_norm_growth
from minimand.optim.schedule import constant, cosine_decay, linear_decay
from minimand.optim.trainer import BatchedTrainer, stack_modules

SGD = optimizer_of(rules.SGD, __name__)
Momentum = optimizer_of(rules.Momentum, __name__)
AdamW = optimizer_of(rules.AdamW, __name__)
AdaBelief = optimizer_of(rules.AdaBelief, __name__)
DiffGrad = optimizer_of(rules.DiffGrad, __name__)
AdamP = optimizer_of(rules.AdamP, __name__)
SGDP = optimizer_of(rules.SGDP, __name__)
SignSGD = optimizer_of(rules.SignSGD, __name__)
Lion = optimizer_of(rules.Lion, __name__)
LionK = optimizer_of(rules.LionK, __name__)
Muon = optimizer_of(rules.Muon, __name__)
AdaGradNorm = optimizer_of(rules.AdaGradNorm, __name__)

__all__ = [
    "SGD",
    "Momentum",
    "AdamW",
    "AdaBelief",
    "DiffGrad",
    "AdamP",
    "SGDP",
    "SignSGD",
    "Lion",
    "LionK",
    "Muon",
    "AdaGradNorm",
    "matrix_groups",
    "orthogonalise",
    "radial_projection",
    "scale_invariant_norm_growth",
    "Rule",
    "rules",
    "RuleOptimizer",
    "optimizer_of",
    "BatchedTrainer",
    "stack_modules",
    "constant",
    "linear_decay",
    "cosine_decay",
]

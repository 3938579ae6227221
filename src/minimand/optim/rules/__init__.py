"""The update rules themselves, as pure functions. ``minimand.optim`` has each as a ``torch.optim.Optimizer``."""

from minimand.optim.rules.adam import AdaBelief, AdamW, DiffGrad
from minimand.optim.rules.first_order import SGD, AdaGradNorm, Lion, LionK, Momentum, SignSGD
from minimand.optim.rules.matrix import Muon, matrix_groups, orthogonalise
from minimand.optim.rules.radial import SGDP, AdamP, radial_projection, scale_invariant_norm_growth

RULES = (SGD, Momentum, AdamW, AdaBelief, DiffGrad, AdamP, SGDP, SignSGD, Lion, LionK, Muon, AdaGradNorm)

__all__ = [
    "RULES",
    "SGD",
    "SGDP",
    "AdaBelief",
    "AdaGradNorm",
    "AdamP",
    "AdamW",
    "DiffGrad",
    "Lion",
    "LionK",
    "Momentum",
    "Muon",
    "SignSGD",
    "matrix_groups",
    "orthogonalise",
    "radial_projection",
    "scale_invariant_norm_growth",
]

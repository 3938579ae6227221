"""The update rules themselves, as pure functions. ``minimand.optim`` has each as a ``torch.optim.Optimizer``."""

from minimand.optim.rules.adam import AdaBelief, AdamW, DiffGrad
from minimand.optim.rules.curvature import MFAC, Sophia
from minimand.optim.rules.first_order import SGD, AdaGrad, AdaGradNorm, Lion, LionK, Momentum, SignSGD
from minimand.optim.rules.matrix import Muon, NorMuon, matrix_groups, orthogonalise
from minimand.optim.rules.radial import SGDP, AdamP, radial_projection, scale_invariant_norm_growth
from minimand.optim.rules.subspace import Conda, Frugal

RULES = (
    SGD,
    Momentum,
    AdamW,
    AdaBelief,
    DiffGrad,
    AdamP,
    SGDP,
    SignSGD,
    Lion,
    LionK,
    Muon,
    NorMuon,
    Conda,
    Frugal,
    AdaGrad,
    AdaGradNorm,
    MFAC,
    Sophia,
)

__all__ = [
    "MFAC",
    "RULES",
    "SGD",
    "SGDP",
    "AdaBelief",
    "AdaGrad",
    "AdaGradNorm",
    "AdamP",
    "AdamW",
    "Conda",
    "DiffGrad",
    "Frugal",
    "Lion",
    "LionK",
    "Momentum",
    "Muon",
    "NorMuon",
    "SignSGD",
    "Sophia",
    "matrix_groups",
    "orthogonalise",
    "radial_projection",
    "scale_invariant_norm_growth",
]

"""Update rules as drop-in optimizers, and many training runs at once.

``AdaBelief(params, lr=1e-3)`` and its fellows are ``torch.optim.Optimizer``s; ``rules`` holds the same as pure
functions; ``BatchedTrainer`` trains hundreds of models with one rule together.
"""

from minimand.optim import rules
from minimand.optim.batch_size import BatchSizeTest, GradientSums
from minimand.optim.boosting import BoostedNetwork, newton_step
from minimand.optim.curvature import (
    empirical_fisher_vp,
    fisher_vp,
    ggn_vp,
    gradient_covariance_vp,
    hvp,
)
from minimand.optim.curvature_operator import CurvatureOperator
from minimand.optim.diagnostics import (
    OpposingSignalModel,
    OpposingSignals,
    gradient_cosine,
    opposing_groups,
    opposing_signals,
)
from minimand.optim.diagonals import gauss_newton_bartlett_diagonal, hutchinson_diagonal
from minimand.optim.distributed import DistributedOptimizer
from minimand.optim.floor import COSTS, state_bytes, step_bytes
from minimand.optim.inverse_fisher import InverseFisher, obs_prune
from minimand.optim.lanczos import (
    Lanczos,
    SpectralDensity,
    TopEigenvalues,
    lanczos,
    outlier_count,
    spectral_density,
    top_eigenvalues,
)
from minimand.optim.mirrors import Ball, Box, Simplex
from minimand.optim.objective import Composite, module_objective
from minimand.optim.online import (
    AdaptiveRate,
    OnlineState,
    OptimisticMirrorDescent,
    Regret,
    StronglyConvexRate,
    play_online,
    sea_regret_bound,
)
from minimand.optim.optimizer import RuleOptimizer, optimizer_of
from minimand.optim.refine import ScheduleRecorder, last_iterate_bound, last_iterate_steps, refine_schedule
from minimand.optim.rule import Rule
from minimand.optim.rules import matrix_groups, orthogonalise, radial_projection, scale_invariant_norm_growth
from minimand.optim.schedule import constant, cosine_decay, inverse_sqrt, inverse_time, linear_decay, step_decay
from minimand.optim.search import (
    RBF,
    Acquired,
    AttackSearch,
    BarDistribution,
    BayesianSearch,
    CoveringDirectSearch,
    Evaluated,
    GaussianProcess,
    IgniteMultiplier,
    Matern52,
    NeuralAcquisitionProcess,
    NeuralProcessSearch,
    Posterior,
    QuasiRandomSearch,
    RandomSearch,
    Search,
    ascend_surrogate,
    directional_attack,
    entropy_search,
    expected_improvement,
    expected_records,
    fit_gaussian_process,
    generalized_advantages,
    gradient_norm_penalty,
    knowledge_gradient,
    log_expected_improvement,
    noisy_expected_improvement,
    ppo_objective,
)
from minimand.optim.solvers import (
    Armijo,
    Descent,
    GradientRegularizedNewton,
    Minimised,
    NormalizedLogistic,
    Perceptron,
    Solver,
    StepInfo,
    TargetSurrogate,
    batch_perceptron,
    logistic_separation_bound,
    margin_objective,
    minimise,
    normalized_logistic_step,
)
from minimand.optim.spikes import (
    bbp_top_eigenvalue,
    effective_batch,
    heavy_ball_from_spectrum,
    scale_lr,
    spiked_top_eigenvalue,
)
from minimand.optim.tract import TrActConv2d, TrActLinear, tract, tract_gradient
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
NorMuon = optimizer_of(rules.NorMuon, __name__)
Conda = optimizer_of(rules.Conda, __name__)
Frugal = optimizer_of(rules.Frugal, __name__)
AdaGrad = optimizer_of(rules.AdaGrad, __name__)
AdaGradNorm = optimizer_of(rules.AdaGradNorm, __name__)
MFAC = optimizer_of(rules.MFAC, __name__)
Sophia = optimizer_of(rules.Sophia, __name__)

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
    "NorMuon",
    "Conda",
    "Frugal",
    "AdaGrad",
    "AdaGradNorm",
    "MFAC",
    "Sophia",
    "matrix_groups",
    "orthogonalise",
    "radial_projection",
    "scale_invariant_norm_growth",
    "Rule",
    "rules",
    "RuleOptimizer",
    "optimizer_of",
    "DistributedOptimizer",
    "BatchedTrainer",
    "stack_modules",
    "state_bytes",
    "step_bytes",
    "COSTS",
    "hvp",
    "ggn_vp",
    "fisher_vp",
    "empirical_fisher_vp",
    "gradient_covariance_vp",
    "CurvatureOperator",
    "lanczos",
    "Lanczos",
    "top_eigenvalues",
    "TopEigenvalues",
    "spectral_density",
    "SpectralDensity",
    "outlier_count",
    "hutchinson_diagonal",
    "gauss_newton_bartlett_diagonal",
    "InverseFisher",
    "obs_prune",
    "BatchSizeTest",
    "GradientSums",
    "effective_batch",
    "spiked_top_eigenvalue",
    "bbp_top_eigenvalue",
    "scale_lr",
    "heavy_ball_from_spectrum",
    "constant",
    "linear_decay",
    "cosine_decay",
    "inverse_sqrt",
    "inverse_time",
    "step_decay",
    "refine_schedule",
    "ScheduleRecorder",
    "last_iterate_steps",
    "last_iterate_bound",
    "opposing_signals",
    "OpposingSignals",
    "opposing_groups",
    "gradient_cosine",
    "OpposingSignalModel",
    "BoostedNetwork",
    "newton_step",
    "Composite",
    "module_objective",
    "minimise",
    "Minimised",
    "Solver",
    "StepInfo",
    "Descent",
    "Armijo",
    "GradientRegularizedNewton",
    "TargetSurrogate",
    "NormalizedLogistic",
    "normalized_logistic_step",
    "margin_objective",
    "batch_perceptron",
    "Perceptron",
    "logistic_separation_bound",
    "Evaluated",
    "Search",
    "RandomSearch",
    "QuasiRandomSearch",
    "RBF",
    "Matern52",
    "GaussianProcess",
    "Posterior",
    "fit_gaussian_process",
    "expected_improvement",
    "log_expected_improvement",
    "noisy_expected_improvement",
    "knowledge_gradient",
    "entropy_search",
    "BayesianSearch",
    "directional_attack",
    "CoveringDirectSearch",
    "AttackSearch",
    "BarDistribution",
    "NeuralAcquisitionProcess",
    "Acquired",
    "NeuralProcessSearch",
    "ppo_objective",
    "generalized_advantages",
    "expected_records",
    "gradient_norm_penalty",
    "IgniteMultiplier",
    "ascend_surrogate",
    "OptimisticMirrorDescent",
    "OnlineState",
    "Ball",
    "Box",
    "Simplex",
    "AdaptiveRate",
    "StronglyConvexRate",
    "play_online",
    "Regret",
    "sea_regret_bound",
    "tract_gradient",
    "TrActLinear",
    "TrActConv2d",
    "tract",
]

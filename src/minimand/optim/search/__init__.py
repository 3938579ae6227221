"""Black-box search: maximise a function over the unit cube from its values alone."""

from minimand.optim.search.acquisition import (
    entropy_search,
    expected_improvement,
    knowledge_gradient,
    log_expected_improvement,
    noisy_expected_improvement,
)
from minimand.optim.search.bar_distribution import BarDistribution
from minimand.optim.search.bayesian import BayesianSearch
from minimand.optim.search.direct import AttackSearch, CoveringDirectSearch, directional_attack
from minimand.optim.search.gp import RBF, GaussianProcess, Matern52, Posterior, fit_gaussian_process
from minimand.optim.search.neural_process import Acquired, NeuralAcquisitionProcess, NeuralProcessSearch
from minimand.optim.search.offline import IgniteMultiplier, ascend_surrogate, gradient_norm_penalty
from minimand.optim.search.policy_gradient import expected_records, generalized_advantages, ppo_objective
from minimand.optim.search.search import Evaluated, QuasiRandomSearch, RandomSearch, Search

__all__ = [
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
]

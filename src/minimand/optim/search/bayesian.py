"""Bayesian optimisation as a search, with BoTorch as its engine."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count
from minimand.optim.search.acquisition import TUTORIAL
from minimand.optim.search.search import QuasiRandomSearch, Search
from minimand.source import from_paper

Acquisition = Literal["log_expected_improvement", "noisy_expected_improvement", "knowledge_gradient", "entropy_search"]
ACQUISITIONS = ("log_expected_improvement", "noisy_expected_improvement", "knowledge_gradient", "entropy_search")

STARTS, RAW = 4, 128  # local climbs of an acquisition, and the points that their starts are chosen from
SAMPLES, FANTASIES = 128, 16  # of Monte Carlo: paths, and observations that the knowledge gradient looks ahead to
GRID = 512  # points among which entropy search looks for the maximum


@from_paper(TUTORIAL)
class BayesianSearch(Search):
    """Search by a Gaussian process: fit it to what has been told, and ask where its acquisition function is largest.

    The first ``initial`` points are a Sobol sequence's; as long as fewer have feasible values, so are the next. An
    infeasible point counts as the worst value told so far, which keeps the search away from it. The process and the
    acquisition functions are BoTorch's (the extra ``bo``), in Monte Carlo form, so that several points may be asked
    for at once and get on with one another. What is asked depends on the seed and on what has been told alone.

    Args:
        dim: how many numbers a point has.
        acquisition: "log_expected_improvement" for exact values; "noisy_expected_improvement" for noisy ones (that of
            Letham et al. (2019), not :func:`noisy_expected_improvement`); "knowledge_gradient", the dearest, and
            "entropy_search" (of the maximal value) for noisy ones.
        seed: of all that is random.
        initial: how many quasi-random points come first; dim + 1 unless given.

    Raises:
        ModuleNotFoundError: without BoTorch, naming the extra.
        ValueError, TypeError: for arguments that do not fit.

    Source: Frazier (2018), arXiv:1807.02811, algorithm 1.

    >>> bool((BayesianSearch(2).ask(3) == QuasiRandomSearch(2).ask(3)).all())  # as nothing has been told
    True
    """

    def __init__(
        self,
        dim: int,
        acquisition: Acquisition = "log_expected_improvement",
        *,
        seed: int = 0,
        initial: int | None = None,
    ) -> None:
        super().__init__(dim, seed)
        check_choice("acquisition", acquisition, ACQUISITIONS)
        if importlib.util.find_spec("botorch") is None:
            raise ModuleNotFoundError("BayesianSearch needs the extra 'bo': pip install 'minimand[bo]'")
        self.acquisition: Acquisition = acquisition
        self.initial = dim + 1 if initial is None else check_count("initial", initial)

    def ask(self, count: int = 1) -> Tensor:
        """``count`` points (count, dim) to evaluate next."""
        check_count("count", count)
        told, feasible = len(self.values), len(self.feasible[1])
        if feasible < self.initial:
            return QuasiRandomSearch(self.dim, self.seed).ask(told + count)[told:]
        from botorch.utils.sampling import manual_seed

        # its warnings are about fits that it then mends, or about values that it scales itself
        with warnings.catch_warnings(), manual_seed(self.seed * 1_000_003 + told), torch.enable_grad():
            warnings.simplefilter("ignore")
            return self._proposed(count).detach().clamp(0, 1)

    def _proposed(self, count: int) -> Tensor:
        from botorch.optim import optimize_acqf

        values = torch.where(self.values.isnan(), self.feasible[1].min(), self.values)
        found, _ = optimize_acqf(
            self._acquisition(self._fitted(self.points, values), self.points, values),
            bounds=torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, self.dim),
            q=count,
            num_restarts=STARTS,
            raw_samples=RAW,
            sequential=count > 1 and self.acquisition != "knowledge_gradient",
        )
        return found

    def _fitted(self, points: Tensor, values: Tensor) -> Any:
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.models.transforms import Standardize
        from gpytorch.mlls import ExactMarginalLogLikelihood

        spread = {} if bool((values != values[0]).any()) else {"outcome_transform": None}
        model = SingleTaskGP(points, values[:, None], **{"outcome_transform": Standardize(m=1), **spread})
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        return model

    def _acquisition(self, model: Any, points: Tensor, values: Tensor) -> Any:
        from botorch.acquisition import (
            qKnowledgeGradient,
            qLogExpectedImprovement,
            qLogNoisyExpectedImprovement,
            qLowerBoundMaxValueEntropy,
        )
        from botorch.sampling import SobolQMCNormalSampler

        sampler = SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=self.seed)
        if self.acquisition == "log_expected_improvement":
            return qLogExpectedImprovement(model, best_f=values.max(), sampler=sampler)
        if self.acquisition == "noisy_expected_improvement":
            return qLogNoisyExpectedImprovement(model, X_baseline=points, sampler=sampler, prune_baseline=True)
        if self.acquisition == "knowledge_gradient":
            return qKnowledgeGradient(model, num_fantasies=FANTASIES)
        return qLowerBoundMaxValueEntropy(model, torch.rand(GRID, self.dim, dtype=torch.float64))

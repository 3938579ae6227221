"""The Hessian's spectrum: as many outliers as clusters less one, of a size that does not depend on the width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import (
    BatchedTrainer,
    CurvatureOperator,
    module_objective,
    outlier_count,
    rules,
    stack_modules,
    top_eigenvalues,
)

SEEDS = {"smoke": 2, "small": 12, "full": 100}
STAGES = {"smoke": (2, 4), "small": (20, 200), "full": (20, 200, 2000)}  # steps of training
JUDGED = 1  # the stage
CLUSTERS = {"smoke": (3,), "small": (2, 3, 5), "full": (2, 3, 5)}
WIDTHS = {"smoke": (3, 6), "small": (10, 20), "full": (10, 20, 40)}
INPUTS, SAMPLES, DISTANCE, SPREAD = 10, 400, 2.0, 0.7
RATE, MOMENTUM = 0.1, 0.9
LOOKED_AT = 8  # of the largest eigenvalues
ZERO = 1e-3  # of the largest: a smaller eigenvalue belongs to the bulk at zero
COLUMNS = 64


@dataclass(frozen=True)
class Spectra:
    """Losses (seeds,) of networks trained on so many clusters, and the eigenvalues (seeds, d) of their Hessians."""

    clusters: int
    losses: Tensor
    values: Tensor
    gauss_newton_tops: Tensor

    @property
    def tops(self) -> Tensor:
        """The largest eigenvalues (seeds,)."""
        return self.values[:, -1]

    @property
    def counted(self) -> Tensor:
        """The number of outliers (seeds,)."""
        return outlier_count(self.values[:, -LOOKED_AT:])

    @property
    def as_claimed(self) -> Tensor:
        """Whether that is one less than the clusters (seeds,)."""
        return (self.counted == self.clusters - 1).double()


def run(scale: Scale, seed: int) -> Measured:
    """Networks of several widths on Gaussian clusters, at several stages, and all eigenvalues of their Hessians."""
    seeds = [1000 * seed + i for i in range(SEEDS[scale])]
    widths, stages = WIDTHS[scale], STAGES[scale]
    found = {
        (clusters, width, steps): spectra(clusters, width, seeds, steps)
        for clusters in CLUSTERS[scale]
        for width in widths
        for steps in stages
    }
    judged = {case[:2]: each for case, each in found.items() if case[2] == stages[JUDGED]}
    changes = [(judged[k, widths[1]].tops / judged[k, widths[0]].tops - 1).abs() for k in CLUSTERS[scale]]
    rows = tuple(
        (
            clusters,
            width,
            steps,
            float(each.losses.mean()),
            float(each.as_claimed.mean()),
            int(each.counted.mode().values),
            *(float(each.values[:, -rank].mean()) for rank in (1, max(clusters - 1, 1), clusters, clusters + 1)),
            float(each.gauss_newton_tops.mean()),
            float((each.values.abs() < ZERO * each.tops[:, None]).double().mean()),
        )
        for (clusters, width, steps), each in found.items()
    )
    networks = ("clusters k", "width", "steps", "mean loss", "share with k - 1 outliers", "most frequent count")
    eigenvalues = ("largest eigenvalue", "(k - 1)-th", "k-th", "(k + 1)-th", "largest of Gauss-Newton")
    return Measured(
        {
            "outliers": Effect.mean(torch.stack([each.as_claimed for each in judged.values()]).mean(0).tolist()),
            "width": Effect.mean(torch.stack(changes).mean(0).tolist()),
        },
        Table((*networks, *eigenvalues, f"share under {ZERO:g} of the largest"), rows),
        Figure(
            f"Largest eigenvalues of the Hessian after {stages[JUDGED]} steps, mean over networks",
            "rank",
            "eigenvalue",
            {
                f"{clusters} clusters, width {width}": [
                    (rank, float(each.values[:, -rank].mean())) for rank in range(1, LOOKED_AT + 1)
                ]
                for (clusters, width), each in judged.items()
            },
            log_y=True,
        ),
        (
            f"{len(seeds)} networks of each kind, on data of their own; outliers are counted at the largest ratio of "
            f"neighbours among the {LOOKED_AT} largest eigenvalues, and judged after {stages[JUDGED]} steps.",
            "The other stages show how far the count depends on how well the samples are fitted.",
        ),
    )


def spectra(clusters: int, width: int, seeds: list[int], steps: int) -> Spectra:
    """One network a seed, trained on its own data by gradient descent with momentum, and its Hessian's eigenvalues."""
    data = [gaussian_clusters(clusters, seed) for seed in seeds]
    modules = [network(width, clusters, seed) for seed in seeds]
    params = trained(modules, data, steps)
    found = []
    for i, (module, sample) in enumerate(zip(modules, data, strict=True)):
        own = {name: stacked[i] for name, stacked in params.items()}
        hessian = CurvatureOperator(module, F.cross_entropy, [sample], "hessian", own, columns=COLUMNS)
        values = torch.linalg.eigvalsh(hessian @ torch.eye(hessian.dim, dtype=torch.float64))
        gauss_newton = CurvatureOperator(module, F.cross_entropy, [sample], "gauss_newton", own)
        top = top_eigenvalues(gauss_newton, gauss_newton.dim, tolerance=1e-3).values[0]
        found.append((module_objective(module, F.cross_entropy, *sample)(own), values, top))
    losses, values, tops = (torch.stack(part) for part in zip(*found, strict=True))
    return Spectra(clusters, losses, values, tops)


def gaussian_clusters(clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs around one point an axis, and which point (SAMPLES,)."""
    generator = np.random.default_rng((seed, clusters))
    target = generator.integers(clusters, size=SAMPLES)
    inputs = DISTANCE * np.eye(INPUTS)[target] + SPREAD * generator.normal(size=(SAMPLES, INPUTS))
    return torch.from_numpy(inputs), torch.from_numpy(target)


def network(width: int, clusters: int, seed: int) -> nn.Module:
    """One hidden layer of tanh, as PyTorch initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh(), nn.Linear(width, clusters)).double()


def trained(modules: list[nn.Module], data: list[tuple[Tensor, Tensor]], steps: int) -> dict[str, Tensor]:
    """The weights (seeds, ...) after training, each network on all of its own data at every step."""
    params, call = stack_modules(modules)

    def charged(own: dict[str, Tensor], batch: tuple[Tensor, ...], _: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(call(own, batch[0]), batch[1])

    inputs, target = (torch.cat([sample[i] for sample in data]) for i in range(2))
    rows = torch.arange(len(target)).view(len(modules), 1, -1).expand(-1, steps, -1)
    trainer = BatchedTrainer(charged, rules.Momentum())
    state = trainer.init(params, {"lr": RATE, "momentum": MOMENTUM})
    params, _, _ = trainer.run(params, state, (inputs, target), rows)
    return params


CLAIM = Claim(
    statement="Of small tanh networks trained on k Gaussian clusters, at least 90% have a Hessian with k - 1 outlying "
    "eigenvalues, whatever their width, and the largest changes by less than 25% on average when the width doubles.",
    refuted_by="a share of networks with k - 1 outliers whose 95% interval lies below 90%, or a mean change of the "
    "largest eigenvalue between widths whose interval lies above 25%",
    thresholds={
        "outliers": Threshold("share of networks with k - 1 outliers", above=0.9),
        "width": Threshold("mean relative change of the largest eigenvalue when the width doubles", below=0.25),
    },
    parts=(optim.hvp, optim.ggn_vp, optim.CurvatureOperator, optim.top_eigenvalues, optim.outlier_count),
    run=run,
    full="100 networks of each kind, also after 2000 steps and of width 40; an hour",
)

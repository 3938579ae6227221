"""The choices that come with minimand: losses, rules, schedules and models that a study can try by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from minimand import losses
from minimand.calibration import CALIBRATORS
from minimand.hyper import HyperSpec, LogUniform
from minimand.losses import ScalarSupport, spec_of
from minimand.optim import rules, schedule
from minimand.optim.rule import Rule
from minimand.source import Source, source_of
from minimand.study import models
from minimand.study.fairness import FairnessPenalty
from minimand.study.method import Choice
from minimand.study.objective import (
    BinaryLoss,
    ClassLoss,
    HistogramLoss,
    Objective,
    RealLoss,
    huber,
    kl_robust_cross_entropy,
)

GOOD = Source("Rational Decisions", "Good", 1952)
LEGENDRE = Source("Nouvelles méthodes pour la détermination des orbites des comètes", "Legendre", 1805)
BOSCOVICH = Source("De litteraria expeditione per pontificiam ditionem", "Boscovich", 1757)
HUBER = Source("Robust Estimation of a Location Parameter", "Huber", 1964)
COSINE = Source("SGDR: Stochastic Gradient Descent with Warm Restarts", "Loshchilov & Hutter", 2017, "1608.03983")
LINEAR = Source("When, Why and How Much?", "Defazio et al.", 2023, "2310.07831")


def _loss(
    name: str, summary: str, objective: Objective, source: Source, hypers: Mapping[str, HyperSpec] | None = None
) -> Choice:
    regression = isinstance(objective, (RealLoss, HistogramLoss))
    kinds = ("regression",) if regression else ("classification",)
    return Choice(name, "loss", objective, hypers or {}, summary, source, kinds)


def _declared(
    name: str,
    summary: str,
    function: Callable[..., Any],
    probabilities: Callable[[Tensor], Tensor] | None = None,
    **options: float,
) -> Choice:
    """A loss of class logits with the source and the numbers that it declares, less those that are given."""
    spec = spec_of(function)
    hypers = {hyper: each for hyper, each in spec.hypers.items() if hyper not in options}
    return _loss(name, summary, ClassLoss(function, options, probabilities), spec.source, hypers)


def _metric(name: str, summary: str, *hypers: str) -> Choice:
    """AnyLoss for one metric."""
    spec = spec_of(losses.metric_loss)
    known = {hyper: spec.hypers[hyper] for hyper in ("amplification", *hypers)}
    return _loss(name, f"{summary}; two classes", BinaryLoss(losses.metric_loss, {"metric": name}), spec.source, known)


_SIGMOID_FOCAL = spec_of(losses.sigmoid_focal_loss)

LOSSES = (
    _loss("cross_entropy", "minus the log of the true class's probability", ClassLoss(F.cross_entropy), GOOD),
    _declared("gce", "between cross-entropy (q = 0) and mae (q = 1)", losses.generalised_cross_entropy_loss),
    _declared("mae", "one minus the true class's probability: bounded, so robust", losses.comp_sum_loss, tau=2.0),
    _declared("sum_exponential", "sum of e^(score difference): hardest on mistakes", losses.comp_sum_loss, tau=0.0),
    _declared("comp_sum", "the family of the four above, by tau", losses.comp_sum_loss),
    _declared("focal", "cross-entropy that looks away from what is already learnt", losses.focal_loss),
    _declared("ldr", "worst average of score differences near uniform, by temperature lam", losses.ldr_loss),
    _declared("aldr", "ldr whose temperature follows each sample", losses.adaptive_ldr_loss),
    _declared("squared_hinge", "one support vector machine a class, its margin squared", losses.squared_hinge_loss),
    _loss(
        "kl_robust",
        "cross-entropy whose hardest samples weigh most, the more the smaller r",
        ClassLoss(kl_robust_cross_entropy),
        spec_of(losses.kl_robust_mean).source,
        spec_of(losses.kl_robust_mean).hypers,
    ),
    _declared("z_loss", "softplus of the true class's z-score: blind to the scores' shift and scale", losses.z_loss),
    _declared(
        "taylor_softmax",
        "cross-entropy with 1 + o + o^2 / 2 for e^o",
        losses.taylor_softmax_loss,
        probabilities=losses.taylor_softmax,
    ),
    _declared(
        "spherical_softmax",
        "cross-entropy with o^2 for e^o",
        losses.spherical_softmax_loss,
        probabilities=losses.spherical_softmax,
        epsilon=0.01,
    ),
    _loss(
        "sigmoid_focal",
        "focal loss of yes or no, with a weight for yes; two classes",
        BinaryLoss(losses.sigmoid_focal_loss),
        _SIGMOID_FOCAL.source,
        _SIGMOID_FOCAL.hypers,
    ),
    _metric("accuracy", "one minus a soft accuracy of the batch (AnyLoss)"),
    _metric("f1", "one minus a soft F1 of the batch (AnyLoss)"),
    _metric("f_beta", "one minus a soft F-beta of the batch (AnyLoss), recall counting beta-fold", "beta"),
    _metric("g_mean", "one minus the soft geometric mean of both recalls (AnyLoss)"),
    _metric("balanced_accuracy", "one minus the soft mean of both recalls (AnyLoss)"),
    _metric("mcc", "one minus a soft Matthews correlation (AnyLoss)"),
    _loss("mse", "squared error", RealLoss(F.mse_loss), LEGENDRE),
    _loss("l1", "absolute error", RealLoss(F.l1_loss), BOSCOVICH),
    _loss(
        "huber",
        "squared error near zero, absolute error beyond delta",
        RealLoss(huber),
        HUBER,
        {"delta": HyperSpec(1.0, low=0.0, closed="neither", search=LogUniform(0.1, 3.0))},
    ),
    _loss(
        "hl_gauss",
        "classification over 51 bins, the target smoothed by a Gaussian",
        HistogramLoss("hl_gauss"),
        ScalarSupport.spec.source,
        ScalarSupport.spec.hypers,
    ),
    _loss(
        "two_hot",
        "classification over 51 atoms, the target split over the two nearest",
        HistogramLoss("two_hot"),
        ScalarSupport.spec.source,
    ),
)


def _rule(name: str, rule: Rule, summary: str = "", hypers: Mapping[str, HyperSpec] | None = None) -> Choice:
    summary = summary or (type(rule).__doc__ or "").partition("\n")[0]
    return Choice(name, "rule", rule, hypers or type(rule).hypers, summary, type(rule).source)


_ADAM = {
    **rules.AdamW.hypers,
    "weight_decay": replace(rules.AdamW.hypers["weight_decay"], default=0.0, search=None),
}

RULES = (
    _rule("adamw", rules.AdamW(), "Adam with decoupled weight decay"),
    _rule("adam", rules.AdamW(), "Adam without weight decay", _ADAM),
    _rule("sgd", rules.SGD()),
    _rule("momentum", rules.Momentum()),
    _rule("adabelief", rules.AdaBelief()),
    _rule("diffgrad", rules.DiffGrad()),
    _rule("adamp", rules.AdamP()),
    _rule("sgdp", rules.SGDP()),
    _rule("signsgd", rules.SignSGD()),
    _rule("lion", rules.Lion()),
    _rule("lion_l2", rules.LionK(kernel="l2"), "Lion-K with the l2 norm: a momentum step of fixed length"),
    _rule("lion_nuclear", rules.LionK(kernel="nuclear"), "Lion-K with the nuclear norm: equal singular values"),
    _rule("lion_dead_zone", rules.LionK(kernel="dead_zone"), "Lion that leaves alone what has little momentum"),
    _rule("muon", rules.Muon()),
    _rule("normuon", rules.NorMuon()),
    _rule("conda", rules.Conda(gap=100), "Conda with a basis chosen every 100 steps"),
    _rule("frugal", rules.Frugal(gap=100), "FRUGAL with a subspace chosen every 100 steps"),
    _rule("adagrad", rules.AdaGrad()),
    _rule("adagrad_norm", rules.AdaGradNorm()),
    _rule("mfac", rules.MFAC(window=64), "M-FAC over the last 64 gradients"),
)

SCHEDULES = (
    Choice("constant", "schedule", schedule.constant, {}, "the same learning rate throughout"),
    Choice("cosine", "schedule", schedule.cosine_decay, {}, "half a cosine from the full rate to 0", COSINE),
    Choice("linear", "schedule", schedule.linear_decay, {}, "a straight line from the full rate to 0", LINEAR),
    Choice("inverse_sqrt", "schedule", schedule.inverse_sqrt, {}, "one over the root of the step"),
    Choice("step", "schedule", schedule.step_decay, {}, "a tenth of the rate from each of three milestones on"),
)

PENALTIES = (
    Choice("none", "penalty", None, {}, "nothing is added to the loss"),
    *(
        Choice(
            name,
            "penalty",
            FairnessPenalty(name),
            {"strength": HyperSpec(1.0, low=0.0, closed="left", search=LogUniform(0.1, 30.0))},
            f"dependence of predictions on protected attributes: {summary}",
            source_of(losses.fairness_penalty),
        )
        for name, summary in FairnessPenalty.KINDS.items()
    ),
)

CALIBRATIONS = (
    Choice("none", "calibrator", None, {}, "probabilities as they are", kinds=("classification",)),
    *(
        Choice(name, "calibrator", name, {}, each.summary, kinds=("classification",))
        for name, each in CALIBRATORS.items()
    ),
)

MODELS = tuple(Choice(name, "model", made, {}, models.summary(name)) for name, made in models.MODELS.items())

CATALOGUE = (*LOSSES, *RULES, *SCHEDULES, *MODELS, *PENALTIES, *CALIBRATIONS)

"""Divergences: how far one distribution is from another."""

from minimand.divergences.affinity import log_affinity, renyi
from minimand.divergences.f_divergence import FDivergence
from minimand.divergences.generators import (
    alpha,
    cvar,
    f_divergence,
    jeffreys,
    jensen_shannon,
    kl,
    neyman,
    pearson,
    reverse_kl,
    skew_js,
    skew_kl,
    softened_kl,
    softened_reverse_kl,
    squared_hellinger,
    total_variation,
)
from minimand.divergences.worst_case import WorstCase

__all__ = [
    "FDivergence",
    "f_divergence",
    "kl",
    "reverse_kl",
    "jeffreys",
    "alpha",
    "pearson",
    "neyman",
    "squared_hellinger",
    "skew_js",
    "jensen_shannon",
    "skew_kl",
    "softened_reverse_kl",
    "softened_kl",
    "total_variation",
    "cvar",
    "WorstCase",
    "log_affinity",
    "renyi",
]

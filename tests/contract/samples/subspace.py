"""Rules that even out, rotate, split or clip what Adam and Muon step along."""

from __future__ import annotations

from minimand.optim import rules

from ..declare import rule

RULES = [
    *rule(rules.NorMuon),
    *rule(rules.Conda),
    *rule(rules.Frugal, {"columns": {"select": "columns", "density": 0.6}}),
    *rule(rules.Sophia),
]

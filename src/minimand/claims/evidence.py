"""Evidence: what a claim's recorded run measured, kept as ``evidence/<slug>.json`` beside the code.

It carries the digest of the claim's file. When the file changes the evidence is stale until the claim is run again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import minimand
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Verdict, judge, overall, source_of


@dataclass(frozen=True)
class Evidence:
    """The outcome of one run of a claim.

    ``threshold`` and ``effect`` are the headline's; ``effects`` has all, {name: {value, low, high, threshold,
    verdict}}. ``claim_digest`` says which version of the claim's file was run.
    """

    slug: str
    verdict: Verdict
    effects: dict[str, dict[str, Any]]
    table: Table
    figure: Figure | None
    notes: tuple[str, ...]
    scale: Scale
    seed: int
    seconds: float
    recorded: str
    versions: dict[str, str]
    claim_digest: str

    @property
    def headline(self) -> dict[str, Any]:
        """The first threshold's effect."""
        return next(iter(self.effects.values()))

    @property
    def is_stale(self) -> bool:
        """Whether the claim's file has changed since."""
        return self.claim_digest != digest(self.slug)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it; numbers that are none are null."""
        return _clean(asdict(self))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Evidence:
        """What ``as_json`` gave."""
        table, figure = found["table"], found["figure"]
        values = {
            **found,
            "table": Table(tuple(table["columns"]), tuple(tuple(row) for row in table["rows"])),
            "figure": None if figure is None else Figure(**figure),
            "notes": tuple(found["notes"]),
        }
        return cls(**values)


def conclude(
    slug: str,
    claim: Claim,
    measured: Measured,
    *,
    scale: Scale,
    seed: int,
    seconds: float,
    recorded: str,
    versions: dict[str, str],
) -> Evidence:
    """The evidence of one run, judged by the thresholds in the claim's file."""
    verdicts = judge(claim.thresholds, measured.effects)
    for row in measured.table.rows:
        if len(row) != len(measured.table.columns):
            raise ValueError(f"table's rows must have {len(measured.table.columns)} cells; got {row!r}")
    effects = {
        name: {**asdict(measured.effects[name]), "threshold": threshold.text, "verdict": verdicts[name]}
        for name, threshold in claim.thresholds.items()
    }
    return Evidence(
        slug=slug,
        verdict=overall(verdicts),
        effects=effects,
        table=measured.table,
        figure=measured.figure,
        notes=measured.notes,
        scale=scale,
        seed=seed,
        seconds=seconds,
        recorded=recorded,
        versions=versions,
        claim_digest=digest(slug),
    )


def digest(slug: str) -> str:
    """Which version of a claim's file this is."""
    return hashlib.sha256(source_of(slug).encode()).hexdigest()[:16]


def home() -> Path:
    """Where recorded evidence lies: ``evidence/`` of a checkout, or the package's own copy."""
    package = Path(minimand.__file__).parent
    checkout = package.parents[1]
    return checkout / "evidence" if (checkout / "pyproject.toml").is_file() else package / "evidence"


def load(slug: str, folder: Path | None = None) -> Evidence | None:
    """A claim's recorded evidence; None where there is none.

    Raises ValueError for a file that is no evidence, naming it.
    """
    path = (folder or home()) / f"{slug}.json"
    if not path.is_file():
        return None
    try:
        return Evidence.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no evidence of a claim: {error}") from error


def save(evidence: Evidence, folder: Path | None = None) -> Path:
    """Write evidence, whole or not at all. OSError where the folder cannot be written."""
    folder = folder or home()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{evidence.slug}.json"
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(evidence.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, path)
    return path


def effect_of(found: Mapping[str, Any]) -> Effect:
    """The effect in one entry of ``Evidence.effects``; what was stored as null is NaN."""
    return Effect(*(math.nan if found[name] is None else float(found[name]) for name in ("value", "low", "high")))


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

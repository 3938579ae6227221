"""Run claims: one here, or many in processes of their own, each recorded as soon as it ends."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from minimand._checks import check_choice
from minimand.claims import claim as claims
from minimand.claims.claim import Scale
from minimand.claims.evidence import Evidence, conclude, load, save
from minimand.study.provenance import versions


@dataclass(frozen=True)
class Outcome:
    """One claim's run: its evidence and where that was recorded, or the error that ended it."""

    slug: str
    evidence: Evidence | None = None
    path: Path | None = None
    error: str = ""


def run(slug: str, scale: Scale = "small", seed: int | None = None) -> Evidence:
    """Run a claim. ``seed`` None takes the claim's own, the one that is recorded."""
    check_choice("scale", scale, claims.SCALES)
    found = claims.find(slug)
    seed = found.seed if seed is None else seed
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        measured = found.run(scale, seed)
    return conclude(
        slug,
        found,
        measured,
        scale=scale,
        seed=seed,
        seconds=time.perf_counter() - clock,
        recorded=started.isoformat(timespec="seconds"),
        versions=versions(),
    )


def recordable(slug: str, scale: Scale, seed: int | None) -> str:
    """Why a run of this scale and seed may not be recorded as evidence; empty where it may."""
    found = claims.find(slug)
    if scale == "smoke":
        return "scale smoke only shows that the claim runs"
    if seed is not None and seed in found.developed_with:
        return f"seed {seed} was used while the claim was developed"
    return ""


def is_fresh(slug: str, folder: Path | None = None) -> bool:
    """Whether the recorded evidence is that of the claim's file as it stands."""
    evidence = load(slug, folder)
    return evidence is not None and not evidence.is_stale


def run_many(
    slugs: Sequence[str], scale: Scale = "small", seed: int | None = None, jobs: int = 1, folder: Path | None = None
) -> Iterator[Outcome]:
    """Run claims, ``jobs`` at a time, and record each that may be as soon as it ends."""
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1; got {jobs}")
    if jobs == 1 or len(slugs) == 1:
        for slug in slugs:
            yield _outcome(slug, scale, seed, folder)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        waiting = [pool.submit(_outcome, slug, scale, seed, folder) for slug in slugs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _outcome(slug: str, scale: Scale, seed: int | None, folder: Path | None) -> Outcome:
    try:
        evidence = run(slug, scale, seed)
        path = None if recordable(slug, scale, seed) else save(evidence, folder)
        return Outcome(slug, evidence, path)
    except Exception as error:  # one claim that breaks must not take the others down
        return Outcome(slug, error=f"{type(error).__name__}: {error}")

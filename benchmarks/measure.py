"""Time competitors side by side: in turn, in one process, so that the machine's moods hit all alike."""

from __future__ import annotations

import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    competitors: Mapping[str, Callable[[], object]], rounds: int = 30, before: Callable[[int], object] | None = None
) -> dict[str, list[float]]:
    """Seconds of each competitor in each round; ``before(round)`` runs untimed ahead of every call.

    The order is drawn anew every round: what ran just before leaves caches full or free.
    """
    for call in competitors.values():
        call()
        call()
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    order = random.Random(0)
    for i in range(rounds):
        for name, call in order.sample(list(competitors.items()), len(competitors)):
            if before is not None:
                before(i)
            settle()
            start = time.perf_counter()
            call()
            settle()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def settle() -> None:
    """Wait for what a GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> float:
    """Median over rounds of one competitor's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))


def peak_kilobytes() -> int:
    """The most memory that this process has held, as Linux counts it; ``ru_maxrss`` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": platform.processor() or platform.machine(),
        **gpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def record(name: str, rows: list[dict[str, object]]) -> None:
    """Print the rows as a table and keep them under ``results/``."""
    columns = list(rows[0])
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) for i, c in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")

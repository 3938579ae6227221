"""Time of `import minimand` and of the command line's start, over that of `import torch`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from measure import record

COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, minimand": [sys.executable, "-c", "import torch, minimand"],
    "minimand --help": [sys.executable, "-m", "minimand", "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(11):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    base = times["import torch"]
    record(
        "startup",
        [
            {
                "command": name,
                "seconds": statistics.median(values),
                "over import torch": statistics.median(a / b for a, b in zip(values, base, strict=True)),
            }
            for name, values in times.items()
        ],
    )


if __name__ == "__main__":
    main()

"""The command line: ``minimand compare`` and ``minimand parts``.

Nothing here imports torch before a command needs it, so that ``minimand --help`` answers at once.
"""

from __future__ import annotations

import os


def main() -> None:
    """The entry point of the command ``minimand``."""
    # Threads that wait for one another by spinning fight with whatever else runs here: on two busy cores a study
    # took 33 s with waiting threads that sleep and 193 s with ones that spin. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from minimand.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "minimand":
            raise
        raise SystemExit(
            f"The command line needs {error.name}, which comes with the extra 'study': pip install 'minimand[study]'"
        ) from error
    app()

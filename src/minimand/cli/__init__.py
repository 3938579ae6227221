"""The command line: ``minimand compare`` and ``minimand parts``.

Nothing here imports torch before a command needs it, so that ``minimand --help`` answers at once.
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the command ``minimand``."""
    try:
        from minimand.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "minimand":
            raise
        raise SystemExit(
            f"The command line needs {error.name}, which comes with the extra 'study': pip install 'minimand[study]'"
        ) from error
    app()

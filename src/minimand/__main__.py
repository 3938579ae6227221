"""``python -m minimand`` is the command ``minimand``."""

from minimand.cli import main

main()

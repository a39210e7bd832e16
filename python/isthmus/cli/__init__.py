"""The command line `isthmus`.

Exit codes: 0 good, 1 parity failed or a difference that matters, 2 bad usage or input, 3 bundle, 4
engine or device not available, 5 execution or export. `info`, `predict` and `doctor` run
`isthmus-run` in place of this process.
"""

from __future__ import annotations

# Importing the modules registers their commands.
from isthmus.cli import export_commands, run_commands, verify_commands  # noqa: F401
from isthmus.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Console script `isthmus`."""
    app()

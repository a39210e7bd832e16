"""The command line `isthmus`.

Exit codes: 0 good, 1 parity failed or a difference that matters, 2 bad usage or input, 3 bundle, 4
engine or device not available, 5 execution or export. `info`, `predict` and `doctor` run
`isthmus-run` in place of this process.
"""

from __future__ import annotations

from isthmus.cli import making, proving, serving  # noqa: F401  importing them registers the commands
from isthmus.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Console script `isthmus`."""
    app()

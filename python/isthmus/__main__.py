"""`python -m isthmus`: prints the package's folders, or runs the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable


def main() -> None:
    """Answers a single option of those below, else runs the command line."""
    if len(sys.argv) == 2:
        from isthmus import __version__
        from isthmus.runtime import install_paths

        answers: dict[str, Callable[[], object]] = {
            "--cmake-dir": install_paths.cmake_dir,
            "--include-dir": install_paths.include_dir,
            "--lib-dir": install_paths.lib_dir,
            "--bin-dir": lambda: install_paths.binary().parent,
            "--version": lambda: __version__,
        }
        answer = answers.get(sys.argv[1])
        if answer is not None:
            print(answer())
            return
    from isthmus.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()

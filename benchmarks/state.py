"""Keeps the results of a run that takes hours, so that it can be stopped and go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Row", "State"]

Row = dict[str, Any]


class State:
    """The results of a long run, a JSON line for each subject and kind of work; it can go on."""

    def __init__(self, path: Path, subject: str = "operator") -> None:
        """Reads what is there.

        Args:
            path: The file.
            subject: The member of a row that says what was examined.
        """
        self.path = path
        self.subject = subject
        self.rows: dict[tuple[str, str], list[Row]] = {}
        self.read()

    def read(self) -> None:
        """Reads what this and other processes have added."""
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.rows[entry[self.subject], entry["work"]] = entry["rows"]

    def count(self) -> int:
        """Returns the number of lines that all processes have written so far."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def waiting(self, names: Iterable[str], work: str) -> list[str]:
        """Returns the subjects that have no rows of a kind of work."""
        return [name for name in names if (name, work) not in self.rows]

    def add(self, work: str, names: Iterable[str], rows: Sequence[Row]) -> None:
        """Writes the rows of subjects, in whole lines: other processes write to the file too."""
        lines = ""
        for name in names:
            own = [row for row in rows if row[self.subject] == name]
            self.rows[name, work] = own
            lines += json.dumps({self.subject: name, "work": work, "rows": own}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(lines.encode())

"""The main function of this package's worker processes; `isthmus.runtime.workers` starts them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["run_worker"]

Message = dict[str, Any]


def _write_answer(request: Message, answer: Message) -> None:
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def run_worker(
    handle: Callable[[Message], Message],
    reply: Callable[[Message, Message], None] = _write_answer,
) -> None:
    """Handles the request in the JSON file that the command line names, and replies.

    Args:
        handle: Takes the request and returns the answer; an exception becomes {"error": message}.
        reply: Takes the request and the answer; by default writes the file that the request names
            as its "answer", where `ask_worker` reads it.
    """
    request: Message = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        reply(request, handle(request))
    except Exception as error:  # the caller makes it the reason of a row
        reply(request, {"error": f"{type(error).__name__}: {error}"})

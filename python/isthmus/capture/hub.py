"""Looks where a Hugging Face reference leads, before anything slow is imported or downloaded."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.capture.saved_file import refusal_of_file
from isthmus.errors import InvalidInput

__all__ = ["only_from_cache", "why_offline"]

_CONFIGURATIONS = ("config.json", "adapter_config.json", "modules.json")
"""A folder of a model has one of these; the last two name where the model itself lies."""
_SECONDS = 3.0
"""The time that the hub has to answer, whatever it answers."""


def why_offline(reference: str, known: str = "") -> str:
    """Returns why an id has to come from the cache; empty where the hub answers, and for folders.

    Args:
        reference: A local folder, or an id on the hub.
        known: Why the hub cannot be reached, where that is known already.

    Raises:
        InvalidInput: It is no folder of a model and no id, or an id that neither the cache nor a
            hub that can be reached has.
    """
    _check(reference)
    if Path(reference).is_dir():
        return ""
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ImportError:  # `load_hf` says what to install
        return ""
    why = known
    if not why and constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    why = why or _unreachable(constants.ENDPOINT, reference)
    if not why or isinstance(try_to_load_from_cache(reference, "config.json"), str):
        return why
    raise InvalidInput(
        f'"{reference}" is no folder here and not in the cache of models ({constants.HF_HUB_CACHE})'
        f", and the hub cannot be asked for it: {why}. Give a folder that save_pretrained() wrote, "
        "or set HF_ENDPOINT or HTTPS_PROXY if the hub is reached by another way"
    )


@contextmanager
def only_from_cache() -> Iterator[None]:
    """Keeps huggingface_hub from asking the hub for anything.

    Without that it asks for facts of its own even where every file comes from the cache, and waits
    for a hub that accepts connections and never answers.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _check(reference: str) -> None:
    path = Path(reference)
    if path.is_dir():
        if (path / "manifest.json").is_file():
            raise InvalidInput(
                f"{reference} is a bundle already; `isthmus-run verify {reference}` proves it, and "
                "`isthmus convert` makes further formats of it"
            )
        if not any((path / name).is_file() for name in _CONFIGURATIONS):
            raise InvalidInput(
                f"{reference}: expected a Hugging Face folder with config.json and weights, got a "
                "folder without config.json; give the folder that save_pretrained() wrote"
            )
        return
    if path.exists():
        raise InvalidInput(refusal_of_file(path))
    if reference.startswith((".", "/", "~")) or reference.count("/") > 1 or not reference:
        raise InvalidInput(
            f'there is no folder "{reference}"; expected a Hugging Face folder or id'
        )


def _unreachable(endpoint: str, reference: str) -> str:
    """Returns why the hub does not answer; empty when it does, were it with a refusal."""
    reasons = [f"{endpoint} gave no answer within {_SECONDS:g} s"]

    def ask() -> None:
        request = urllib.request.Request(
            f"{endpoint}/{reference}/resolve/main/config.json", method="HEAD"
        )
        try:
            urllib.request.urlopen(request, timeout=_SECONDS).close()
        except urllib.error.HTTPError:
            reasons.clear()
        except urllib.error.URLError as error:
            # A certificate that is unknown here may be known to the hub's own client.
            if isinstance(error.reason, ssl.SSLError):
                reasons.clear()
            else:
                reasons[:] = [f"{endpoint} does not answer ({error.reason})"]
        except (OSError, ValueError) as error:
            reasons[:] = [f"{endpoint} does not answer ({error})"]
        else:
            reasons.clear()

    # In a thread, for the search of a name takes no time-out.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS + 0.5)
    return "".join(reasons)

"""Finds the line of the user's Python code behind a stack, a graph node or a TorchScript error."""

from __future__ import annotations

import re
import sysconfig
import types
from collections.abc import Iterable
from pathlib import Path

from isthmus.errors import cause_of

_PACKAGE = Path(__file__).resolve().parent.parent
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_TRACED_FRAME = re.compile(r"^(?P<file>[^\n]+?)\((?P<line>\d+)\): (?P<name>\S+)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z-])")
_TORCH_ADVICE = re.compile(r"TORCH_LOGS|mark_dynamic|Dim\.[A-Z]|draft_export|torch\._check")
"""What torch advises its own callers to do, which users of isthmus are not."""
_SCRIPTED_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def source_line(file: str, line: int) -> str:
    """Returns "file:line", the file relative to site-packages or the working directory.

    A file elsewhere is reduced to its name: manifests travel, and should not show a user's home.
    """
    return f"{_short_path(Path(file))}:{line}"


def _short_path(path: Path) -> str:
    for root in (*site_folders(), Path.cwd()):
        try:
            return path.relative_to(root).as_posix()
        except ValueError:
            continue
    return path.name


def site_folders() -> tuple[Path, ...]:
    """Returns the folders into which packages are installed."""
    paths = sysconfig.get_paths()
    return tuple(Path(paths[key]) for key in ("purelib", "platlib", "stdlib"))


def is_machinery(file: str) -> bool:
    """Returns True for code that a user cannot change: Python's, torch's, isthmus's."""
    if file.startswith("<"):  # "<string>", "<eval_with_key>.19"
        return True
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        return True
    if path.is_relative_to(_STANDARD_LIBRARY) and "site-packages" not in path.parts:
        return True
    return "torch" in path.parts and any(
        path.is_relative_to(root / "torch") for root in site_folders()
    )


def in_source_range(text: str) -> tuple[str, bool]:
    """Returns the user's line in a graph node's `sourceRange()`, and True for a scripted node.

    A traced node carries the Python stack, innermost first; a scripted node the compiled file.
    The line is empty where it is not known.
    """
    text = text.partition("Serialized ")[0]  # the archive's own code follows
    scripted = list(_SCRIPTED_FRAME.finditer(text))
    return _first_of_user(scripted or _TRACED_FRAME.finditer(text)), bool(scripted)


def in_stack_text(text: str) -> str:
    """Returns file:line of the innermost line of the user's code in a printed Python stack."""
    return _first_of_user(reversed(list(_SCRIPTED_FRAME.finditer(text))))


def _first_of_user(matches: Iterable[re.Match[str]]) -> str:
    for match in matches:
        if not is_machinery(match["file"]):
            return source_line(match["file"], int(match["line"]))
    return ""


def in_frames(frame: types.FrameType | None) -> tuple[str, list[types.FrameType]]:
    """Returns the innermost line of the user's code on a stack, and the user's frames.

    Frames come innermost first; the line is empty where there are none.
    """
    frames = []
    while frame is not None:
        if not is_machinery(frame.f_code.co_filename):
            frames.append(frame)
        frame = frame.f_back
    if not frames:
        return "", []
    return source_line(frames[0].f_code.co_filename, frames[0].f_lineno), frames


def summarize(error: BaseException) -> tuple[str, str]:
    """Returns an error's cause in one sentence, and the line of the user's code that it names.

    Errors of the TorchScript compiler run over many lines: the cause comes first, then the source
    with a caret.
    """
    text = str(error)
    lines = [line.strip() for line in cause_of(error).splitlines()]
    cause: list[str] = []
    for line in lines:
        if line.startswith(("File ", "Traceback", "~", "The above", "at:")) or "<--- HERE" in line:
            if cause:
                break
            continue
        if not line:
            if cause:
                break
            continue
        cause.append(line)
        if len(" ".join(cause)) > 300:
            break
    sentence = _without_advice(" ".join(cause)) or type(error).__name__
    if len(sentence) > 400:
        sentence = sentence[:397] + "..."
    known = getattr(error, "where", "")
    if known:
        return sentence.rstrip(":. "), str(known)
    where, _ = in_source_range(text)
    return sentence.rstrip(":. "), where or _in_traceback(error)


def _without_advice(text: str) -> str:
    """Returns the sentences that do not advise the caller of torch; all where each of them does."""
    sentences = _SENTENCE_END.split(text)
    return " ".join(each for each in sentences if not _TORCH_ADVICE.search(each)) or text


def _in_traceback(error: BaseException) -> str:
    where = ""
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not is_machinery(file):
            where = source_line(file, step.tb_lineno)
        step = step.tb_next
    return where

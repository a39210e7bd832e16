"""Where in the user's Python code something comes from, told from stacks and TorchScript errors."""

from __future__ import annotations

import re
import sysconfig
import types
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_TRACED_FRAME = re.compile(r"^(?P<file>[^\n]+?)\((?P<line>\d+)\): (?P<name>\S+)", re.MULTILINE)
_SCRIPTED_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


@dataclass(frozen=True)
class Location:
    """A line of Python code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{short_path(self.file)}:{self.line}"


def short_path(file: str) -> str:
    """The path below site-packages or the working directory, else the file's own name.

    Manifests travel: they should not tell where a user's home is.
    """
    path = Path(file)
    for root in (*site_folders(), Path.cwd()):
        try:
            return path.relative_to(root).as_posix()
        except ValueError:
            continue
    return path.name


def site_folders() -> tuple[Path, ...]:
    """Where packages are installed."""
    paths = sysconfig.get_paths()
    return tuple(Path(paths[key]) for key in ("purelib", "platlib", "stdlib"))


def is_machinery(file: str) -> bool:
    """True for torch's own code and ours: frames that a user cannot change."""
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        return True
    return "torch" in path.parts and any(
        path.is_relative_to(root / "torch") for root in site_folders()
    )


def in_source_range(text: str) -> tuple[Location | None, bool]:
    """The user's line in a graph node's `sourceRange()`, and whether the node was scripted.

    A traced node carries the Python stack, innermost first; a scripted one the compiled file.
    """
    text = text.partition("Serialized ")[0]  # behind it: the archive's own code
    scripted = [Location(m["file"], int(m["line"])) for m in _SCRIPTED_FRAME.finditer(text)]
    if scripted:
        return _innermost(scripted), True
    traced = [Location(m["file"], int(m["line"])) for m in _TRACED_FRAME.finditer(text)]
    return _innermost(traced), False


def in_stack_text(text: str) -> str:
    """file:line of the innermost line of the user's code in a printed Python stack."""
    frames = [Location(m["file"], int(m["line"])) for m in _SCRIPTED_FRAME.finditer(text)]
    innermost = _innermost(frames[::-1])
    return str(innermost) if innermost else ""


def _innermost(frames: list[Location]) -> Location | None:
    users = [frame for frame in frames if not is_machinery(frame.file)]
    return users[0] if users else None


def in_frames(frame: types.FrameType | None) -> tuple[Location | None, list[types.FrameType]]:
    """The innermost line of the user's code on a stack, and the user's frames, innermost first."""
    frames = []
    while frame is not None:
        if not is_machinery(frame.f_code.co_filename):
            frames.append(frame)
        frame = frame.f_back
    if not frames:
        return None, []
    return Location(frames[0].f_code.co_filename, frames[0].f_lineno), frames


def summarize(error: BaseException) -> tuple[str, str]:
    """What a (TorchScript) error says in one sentence, and the line it names.

    Compiler errors run over many lines: the cause comes first, then the source with a caret.
    """
    text = str(error)
    lines = [line.strip() for line in text.splitlines()]
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
    sentence = " ".join(cause) or type(error).__name__
    if len(sentence) > 400:
        sentence = sentence[:397] + "..."
    known = getattr(error, "where", "")
    if known:
        return sentence.rstrip(":. "), str(known)
    location, _ = in_source_range(text)
    if location is None and error.__traceback__ is not None:
        location = _in_traceback(error)
    return sentence.rstrip(":. "), str(location) if location else ""


def _in_traceback(error: BaseException) -> Location | None:
    found = None
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not is_machinery(file):
            found = Location(file, step.tb_lineno)
        step = step.tb_next
    return found

"""Finds libraries of custom operators among the Python packages that are installed here.

A bundle names a package, never a file: what is opened is a file of that package which registers the
operators. Who installed a package has already trusted its native code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from isthmus.bundle.manifest import OpLibrary

__all__ = ["installed_libraries", "libraries_to_open", "package_of", "registers"]

_LIBTORCH = (b"libtorch", b"libc10", b"aoti_torch_", b"torch_library_")
"""What a library that registers operators is linked against: LibTorch, or its stable interface."""


def installed_libraries(needed: Iterable[OpLibrary]) -> dict[str, Path]:
    """Returns the file that registers each namespace, for those whose package is installed."""
    found: dict[str, Path] = {}
    for library in needed:
        file = _installed(library) if library.package else None
        if file is not None:
            found[library.namespace] = file
    return found


def libraries_to_open(
    needed: Iterable[OpLibrary], given: Sequence[str | Path] = ()
) -> tuple[str, ...]:
    """Returns the libraries that the caller named, else those of the installed packages."""
    libraries: Iterable[str | Path] = given or installed_libraries(needed).values()
    return tuple(str(library) for library in libraries)


def package_of(library: Path) -> tuple[str, str]:
    """Returns the name and version of the package that a file belongs to; empty without one."""
    library = library.resolve()
    for package in distributions():
        root = Path(str(package.locate_file(""))).resolve()
        if library.is_relative_to(root) and library in _shared_libraries(package):
            return package.metadata["Name"], package.version
    return "", ""


def registers(library: Path, namespace: str, linked: Sequence[bytes] = ()) -> bool:
    """Returns True when a library holds the namespace as a C string, as TORCH_LIBRARY leaves it.

    Args:
        library: The file; one that cannot be read registers nothing.
        namespace: The namespace of the operators.
        linked: Words of which the file has to hold one; none are asked for by default.
    """
    try:
        data = library.read_bytes()
    except OSError:
        return False
    name = namespace.encode()
    named = b"\0" + name + b"\0" in data or b"\0" + name + b"::" in data
    return named and (not linked or any(word in data for word in linked))


def _installed(library: OpLibrary) -> Path | None:
    if not library.namespace.isidentifier():
        return None
    try:
        package = distribution(library.package)
    except PackageNotFoundError:
        return None
    files = _shared_libraries(package)
    # The file may have another name in another version.
    files.sort(key=lambda file: file.name != library.library)
    return next((file for file in files if registers(file, library.namespace, _LIBTORCH)), None)


def _shared_libraries(package: Distribution) -> list[Path]:
    return [
        Path(str(package.locate_file(file))).resolve()
        for file in package.files or ()
        if ".so" in file.name
    ]

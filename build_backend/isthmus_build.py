"""The build backend: scikit-build-core, built against the torch that is installed.

Build isolation hides the environment that the build was called from. This backend finds the torch
of that environment and builds against it where it lies, so that it is neither downloaded again nor
replaced. Where there is none, the newest supported torch becomes a requirement of the build. The
wheel requires the minor version of torch that it was built for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from installed_torch import NEWEST, OLDEST, Torch, find_torch
from scikit_build_core import build as skbuild
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any]


def get_requires_for_build_wheel(config_settings: Settings | None = None) -> list[str]:
    """Returns what the build needs: torch only when there is none to build against."""
    return skbuild.get_requires_for_build_wheel(config_settings) + _torch_to_get(config_settings)


def get_requires_for_build_editable(config_settings: Settings | None = None) -> list[str]:
    """Returns what the build needs: torch only when there is none to build against."""
    return skbuild.get_requires_for_build_editable(config_settings) + _torch_to_get(config_settings)


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings | None = None
) -> str:
    """Writes the metadata of the wheel."""
    settings = TorchRequirement.choose(config_settings)
    return skbuild.prepare_metadata_for_build_wheel(metadata_directory, settings)


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Settings | None = None
) -> str:
    """Writes the metadata of the editable wheel."""
    settings = TorchRequirement.choose(config_settings)
    return skbuild.prepare_metadata_for_build_editable(metadata_directory, settings)


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds the wheel."""
    settings = TorchRequirement.choose(config_settings)
    return skbuild.build_wheel(wheel_directory, settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds the editable wheel."""
    settings = TorchRequirement.choose(config_settings)
    return skbuild.build_editable(wheel_directory, settings, metadata_directory)


class TorchRequirement:
    """Gives scikit-build-core the requirements: those of pyproject.toml, and the torch."""

    torch: Torch | None = None
    """The torch of the wheel that is built, because its settings do not reach `dynamic_metadata`;
    None for a source distribution, which is made for any torch."""

    @classmethod
    def choose(cls, config_settings: Settings | None) -> Settings:
        """Chooses the torch to build against; returns the settings that tell it to CMake."""
        settings = dict(config_settings or {})
        cls.torch = None
        if _wants_torch(settings):
            cls.torch = _find(settings)
            if cls.torch is None:
                raise SystemExit(
                    "isthmus: there is no torch to build against, and a build without isolation "
                    f"gets none: run `pip install '{_requirement(NEWEST)}'` first, or let "
                    "ISTHMUS_LIBTORCH name the folder of an unpacked LibTorch"
                )
            settings["cmake.define.LibTorch_ROOT"] = str(cls.torch.folder)
            settings.setdefault("cmake.define.ISTHMUS_TORCH", "ON")
        return settings

    def dynamic_metadata(
        self, settings: Mapping[str, Any], project: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the requirements."""
        oldest = "torch>={}.{}".format(*OLDEST)
        torch = oldest if self.torch is None else _requirement(self.torch.minor)
        return {"dependencies": [torch, *settings["requirements"]]}

    def dynamic_wheel(self, settings: Mapping[str, Any]) -> dict[str, bool]:
        """Says that a wheel's requirements differ from those of its source distribution."""
        return {"dependencies": True}


def _torch_to_get(config_settings: Settings | None) -> list[str]:
    settings = config_settings or {}
    return [_requirement(NEWEST)] if _wants_torch(settings) and _find(settings) is None else []


def _find(settings: Settings) -> Torch | None:
    return find_torch(settings.get("cmake.define.LibTorch_ROOT", ""))


def _wants_torch(settings: Settings) -> bool:
    return settings.get("cmake.define.ISTHMUS_TORCH", "").upper() not in ("OFF", "0", "FALSE", "NO")


def _requirement(minor: tuple[int, int]) -> str:
    return "torch=={}.{}.*".format(*minor)

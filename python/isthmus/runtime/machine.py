"""The facts about the machine that a report's numbers belong to."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from isthmus.runtime.workers import available_cores


def version_of(package: str) -> str:
    """Returns the installed version of a distribution, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    """Returns the processor's name, or the architecture where the system has no name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_governor() -> str:
    """Returns the clock's governor: "performance", "powersave", ..., or "not told"."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "not told"


def load_average() -> float:
    """Returns the load average of the last minute."""
    return os.getloadavg()[0]


def machine_facts(packages: Sequence[str] = ("isthmus", "torch")) -> dict[str, str]:
    """Returns the facts that every report prints before its tables."""
    return {
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{cpu_name()}, {available_cores()} processors usable",
        "python": platform.python_version(),
        **{name: version_of(name) for name in packages},
    }


def devices_present() -> dict[str, str]:
    """Maps "cpu" and "cuda" to the reason why the device is absent; empty when it is present."""
    import torch

    if torch.cuda.is_available():
        reason = ""
    elif torch.version.cuda is None and Path("/dev/nvidia0").exists():
        reason = f"torch {torch.__version__} is built without CUDA"
    else:
        reason = "no CUDA device on this machine"
    return {"cpu": "", "cuda": reason}

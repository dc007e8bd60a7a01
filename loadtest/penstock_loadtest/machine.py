"""Where figures come from: without this beside them they mean nothing."""

import os
import platform
import re
from pathlib import Path

from penstock_loadtest.broker import roomy


def machine() -> dict[str, str]:
    """What was measured on, as text by what it is."""
    return {
        "cores": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "disk": _file_system(roomy()),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _file_system(path: str) -> str:
    """Type and device of what `path` lies on."""
    mounts = [line.split()[:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [each for each in mounts if os.path.commonpath([path, each[1]]) == each[1]]
    device, _, kind = max(holding, key=lambda each: len(each[1]))
    return f"{kind} on {device}"

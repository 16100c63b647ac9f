"""What this process may use of the machine. Imports nothing heavy, so that the command line answers at once."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may keep busy: those that it may run on, and no more than its container's quota.

    A container that is allowed 8 cores of 128 sees all of them, and would be stopped for most of every 0.1 s if as many
    threads ran. The quota is that of the control group as the container sees it, version 2 (`cpu.max`) or 1.
    """
    quota = math.inf
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (cgroup / "cpu.max").read_text().split()
        quota = int(limit) / int(period)  # "max" is no number: no limit
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        if limit > 0:
            quota = min(quota, limit / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text()))
    cores = len(os.sched_getaffinity(0))
    return cores if quota >= cores else max(1, math.ceil(quota))

"""Cores that may be used: where a container has a quota, no more than that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from understudy.shards.machine import usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 128),
        ({"cpu.max": "max 100000\n"}, 128),
        ({"cpu.max": "800000 100000\n"}, 8),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "25600000 100000\n"}, 128),
        ({"cpu.max": ""}, 128),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 128),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_quota_counts(files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores

"""Checkpoints are whole or not there, also on a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import torch

from understudy.recipes.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from understudy.recipes.mixed import command_line, main

# The job on a disk that has room until its second checkpoint, as far as a process can tell.
FULL = """
import resource, sys
from understudy.recipes import train
from understudy.recipes.mixed import command_line, main
from understudy.recipes.start import told_in_one_line

def save_checkpoint(folder, step, *others):
    if step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, -1))
    before(folder, step, *others)

before, train.save_checkpoint = train.save_checkpoint, save_checkpoint
with told_in_one_line("mixed"):
    main(command_line(sys.argv[1:]))
"""


def test_a_disk_that_is_full_at_a_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    tiny_job.make_corpora(tmp_path)
    arguments = [*tiny_job.arguments(tmp_path, tmp_path / "run"), "--stages=stage1"]
    done = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = "mixed: no space left on the disk; make room and run the same command again"
    assert done.stderr.splitlines()[-1] == told
    stage = tmp_path / "run" / "stage1"
    assert [path.name for path in stage.glob("*step-*")] == ["step-00000002"]
    sizes = {path.name: path.stat().st_size for path in stage.glob("step-*/*")}
    assert sizes["model.safetensors"] < 150_000 < sizes["optimizer.safetensors"], "it broke off in the middle"
    main(command_line(arguments))
    assert json.loads((stage / "ledger.json").read_text())["steps"] == 12


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    half = tmp_path / ".step-00000008.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 9, Checkpoint({"a": torch.ones(2)}, {}, {"step": 9}, {}), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.state == {"step": 9}


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="non contiguous"):
        save_checkpoint(tmp_path, 1, Checkpoint({"a": torch.ones(2, 3).T}, {}, {}, {}), {})
    assert not list(tmp_path.iterdir())

"""The whole of training on a GPU, and the same on a CPU: the main job, stopped and gone on with, then transfer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import torch
from accelerate.state import AcceleratorState

from understudy.recipes import mixed, train, transfer
from understudy.recipes.checkpoint import Checkpoint

STOPPED_AT = 6  # of 12 steps of each stage


class StoppedError(Exception):
    """As if somebody had pulled the plug."""


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device that all recipes choose in this test."""
    if request.param == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)
    return request.param


def run_mixed(corpora: Path, out: Path, *more: str) -> None:
    """The main job at its smallest, with all of stage 2's augmentation, in the precision that is usual there."""
    augmented = ("--stage2.augment.operations=2", "--stage2.augment.erasing=0.5", "--stage2.augment.mixup=0.8")
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed.main(mixed.command_line([*tiny_job.arguments(corpora, out), *augmented, "--precision=auto", *more]))


def losses(out: Path) -> dict[tuple[str, int], float]:
    """By stage and step."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["data_share"] <= 1 for row in rows)
    return {(row["stage"], row["step"]): row["loss"] for row in rows}


def stop_in(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the stage as soon as its checkpoint of STOPPED_AT is there."""
    save = train.save_checkpoint

    def save_and_stop(folder: Path, step: int, checkpoint: Checkpoint, about: dict[str, str]) -> None:
        save(folder, step, checkpoint, about)
        if (folder.name, step) == (stage, STOPPED_AT):
            raise StoppedError

    monkeypatch.setattr(train, "save_checkpoint", save_and_stop)


def test_training_stopped_and_gone_on_with_then_transfer(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_job.make_corpora(tmp_path)
    run_mixed(tmp_path, tmp_path / "whole")
    for stage in ("stage1", "stage2"):
        with monkeypatch.context() as patch:
            stop_in(stage, patch)
            with pytest.raises(StoppedError):
                run_mixed(tmp_path, tmp_path / "stopped")
    run_mixed(tmp_path, tmp_path / "stopped")
    whole, stopped = losses(tmp_path / "whole"), losses(tmp_path / "stopped")
    assert list(whole) == list(stopped) == [(stage, step + 1) for stage in ("stage1", "stage2") for step in range(12)]
    # A GPU may add up in another order each time.
    assert [stopped[key] for key in whole] == pytest.approx(list(whole.values()), rel=0.02 if device == "cuda" else 0)
    for stage in ("stage1", "stage2"):
        one, two = (json.loads((tmp_path / run / stage / "ledger.json").read_text()) for run in ("whole", "stopped"))
        assert one == two  # the same samples in the same order

    (tmp_path / "task-train").symlink_to(tmp_path / "bars")
    (tmp_path / "task-val").symlink_to(tmp_path / "lines")
    AcceleratorState._reset_state(reset_partial_state=True)
    config = transfer.command_line(
        [
            *("--corpora", str(tmp_path / "task"), "--checkpoint", str(tmp_path / "stopped" / "stage2")),
            *("--out", str(tmp_path / "transfer"), "--stride", "1", "--threads", "2", "--val-views.crops", "3"),
            *("--probe.epochs", "2", "--probe.seeds", "1", "--probe.rates", "1e-2"),
            *("--attentive.heads", "2", "--attentive.epochs", "1", "--attentive.seeds", "1"),
            *("--finetune.epochs", "1", "--finetune.seeds", "1", "--finetune.batch-size", "8"),
            *("--finetune.augment.operations", "2", "--finetune.augment.cutmix", "1"),
        ]
    )
    results = transfer.main(config)
    rows: dict[str, dict[str, Any]] = {row["protocol"]: row for row in results["rows"]}
    assert set(rows) == {"linear", "attentive", "finetune"}
    assert (results["machine"]["gpu"] is not None) == (device == "cuda")
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        assert results["machine"]["precision"] == ("bf16" if native else "no")
    for row in rows.values():
        assert (row["videos"], row["failed"]) == (40, [])
        assert 0 <= row["top1"] <= 1
    assert rows["finetune"]["steps"] == 5
    assert rows["finetune"]["train_samples_per_second"] > 0
    assert rows["finetune"]["eval_views_per_second"] > 0
    assert 0 <= rows["finetune"]["data_share"] <= 1
    # What is there is not done again, and its speed is that of then.
    AcceleratorState._reset_state(reset_partial_state=True)
    again = transfer.main(replace(config, protocols=("finetune",)))["rows"][0]
    assert again == rows["finetune"]

"""The main job with its switches on: it trains, survives being stopped, and is the same on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import torch
from safetensors.torch import load_file

from understudy.recipes import train
from understudy.recipes.configs import MixedConfig
from understudy.recipes.mixed import command_line, main
from understudy.shards.errors import UserError

ROOT = Path(__file__).parents[2]
# A decay of 0.5, since an average over 12 steps would else be of where they started.
ALL_ON = [
    *("--mae.masking=tube", "--mae.mask-ratio=0.75", "--mae.decode-share=0.5", "--mae.layout=videomae"),
    *("--stage1.ema=0.5", "--stage1.halved=whole", "--stage2.ema=0.5", "--stage2.blend", "--align-weights", "1", "1"),
    *("--stage2.augment.operations=4", "--stage2.augment.erasing=0.5", "--stage2.augment.mixup=0.8"),
    *("--stage2.augment.cutmix=1", "--stage2.augment.group=2", "--drop-path=0.1", "--fresh-norm"),
    "--checkpoint-activations",
]


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bars")
    tiny_job.make_corpora(root)
    return root


def switched_on(bars: Path, out: Path) -> MixedConfig:
    return command_line([*tiny_job.arguments(bars, out), *ALL_ON])


@pytest.fixture(scope="module")
def finished(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    main(switched_on(bars, out))
    return out


def test_activations_that_are_computed_again_change_nothing(finished: Path, bars: Path, tmp_path: Path) -> None:
    main(replace(switched_on(bars, tmp_path), checkpoint_activations=False))
    assert tiny_job.trained_on(tmp_path) == tiny_job.trained_on(finished)


def test_every_step_blends_both_corpora(finished: Path) -> None:
    ledger = json.loads((finished / "stage2" / "ledger.json").read_text())
    assert ledger["steps"] == 12
    assert ledger["seen"] == {"bars": 48, "lines": 48}  # 4 of each in every step
    assert {name: corpus["kind"] for name, corpus in ledger["corpora"].items()} == dict.fromkeys(
        ("bars", "lines"), "synthetic"
    )
    assert all(len(corpus["digest"]) == 64 and corpus["samples"] == 40 for corpus in ledger["corpora"].values())


def test_stopped_and_restarted_gives_the_same_bits(
    finished: Path, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, saved = switched_on(bars, tmp_path / "run"), 0

    def save_and_stop(*arguments: object) -> None:
        nonlocal saved
        save(*arguments)  # pyright: ignore[reportArgumentType]
        saved += 1
        if saved in (2, 4, 8):
            raise KeyboardInterrupt

    save = train.save_checkpoint
    monkeypatch.setattr(train, "save_checkpoint", save_and_stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            main(config)
    main(config)
    assert tiny_job.trained_on(tmp_path / "run") == tiny_job.trained_on(finished)
    for stage in ("stage1", "stage2"):
        weights = (stage, "encoder.safetensors")
        assert (tmp_path / "run").joinpath(*weights).read_bytes() == finished.joinpath(*weights).read_bytes()


def test_intervals_may_change_where_a_run_goes_on(
    finished: Path, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, saved, stop = switched_on(bars, tmp_path), list[tuple[str, int]](), True

    def save_and_stop(folder: Path, step: int, *others: object) -> None:
        save(folder, step, *others)  # pyright: ignore[reportArgumentType]
        saved.append((folder.name, step))
        if stop and step == 4:
            raise KeyboardInterrupt

    save = train.save_checkpoint
    monkeypatch.setattr(train, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    stop = False
    main(replace(config, log_every=3, save_every=3))
    then = [(stage, step) for stage, steps in (("stage1", (6, 9)), ("stage2", (3, 6, 9))) for step in steps]
    assert saved == [("stage1", 2), ("stage1", 4), *then]
    ledgers, unbroken = tiny_job.trained_on(tmp_path)[:2], tiny_job.trained_on(finished)
    assert ledgers == unbroken[:2]
    every, rows = losses_of(finished), losses_of(tmp_path)
    assert [step for stage, step in rows if stage == "stage1"] == [1, 2, 3, 4, 6, 9, 12]
    assert rows["stage1", 6] == pytest.approx((every["stage1", 5] + every["stage1", 6]) / 2)
    assert rows["stage1", 9] == pytest.approx(sum(every["stage1", step] for step in (7, 8, 9)) / 3)
    for stage in ("stage1", "stage2"):
        weights = (stage, "encoder.safetensors")
        assert tmp_path.joinpath(*weights).read_bytes() == finished.joinpath(*weights).read_bytes()


def losses_of(out: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {(row["stage"], row["step"]): row["loss"] for row in rows}


def test_two_ranks_compute_what_one_does(finished: Path, bars: Path, tmp_path: Path) -> None:
    # Drop path is drawn on each rank for itself, so it is off here, in both.
    alone = replace(switched_on(bars, tmp_path / "one"), drop_path=0.0)
    main(alone)
    flags = [*tiny_job.arguments(bars, tmp_path / "two"), *ALL_ON, "--drop-path=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "recipes" / "mixed.py"), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (tiny_job.trained_on(tmp_path / name) for name in ("one", "two"))
    assert one[:2] == two[:2]
    losses = zip(one[2:], two[2:])
    assert all(
        a[:2] == b[:2] and b[2] == pytest.approx(a[2], rel=2e-2 if a[1] > 4 else 1e-4)  # pyright: ignore
        for a, b in losses
    )


def test_the_average_is_what_a_stage_gives(bars: Path, tmp_path: Path) -> None:
    plain = command_line([*tiny_job.arguments(bars, tmp_path / "plain"), "--stage2.steps=2"])
    ends = {}
    for ema in (0.0, 1e-9, 0.9):
        config = replace(plain, out=tmp_path / str(ema), stage1=replace(plain.stage1, ema=ema))
        main(config)
        ends[ema] = load_file(config.out / "stage1" / "encoder.safetensors")
    torch.testing.assert_close(ends[1e-9], ends[0.0])
    qkv = "blocks.0.attn.qkv.weight"
    assert not torch.allclose(ends[0.9][qkv], ends[0.0][qkv])


def test_accuracy_in_training_is_logged_by_source(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert not any("top1" in row for row in rows if row["stage"] == "stage1")
    for row in (row for row in rows if row["stage"] == "stage2"):
        assert set(row["top1_of"]) == {"bars", "lines"}
        assert 0 <= row["top1"] <= 1
        assert row["top1"] == pytest.approx(sum(row["top1_of"].values()) / 2)  # of as many rows each
    assert any(row["top1"] > 0 for row in rows if row["stage"] == "stage2")


def test_augmenting_without_labels_is_refused(bars: Path, tmp_path: Path) -> None:
    config = command_line([*tiny_job.arguments(bars, tmp_path / "run"), "--stage1.augment.mixup=0.8"])
    with pytest.raises(UserError, match="only stages with labels"):
        main(config)


def test_what_was_filled_in_can_be_left_out(bars: Path, tmp_path: Path) -> None:
    tiny_job.make_filled(tmp_path)
    flags = [*tiny_job.arguments(bars, tmp_path / "none"), "--stage2.steps=1", "--mae.skip-holes"]
    with pytest.raises(UserError, match=r"no corpus says where people were; pack one with .*--removal\.keep-holes"):
        main(command_line(flags))
    flags[flags.index("--mae-corpora") + 1] = str(tmp_path / "filled")
    losses: dict[bool, list[float]] = {}
    for skipped in (True, False):
        config = command_line(flags)
        main(replace(config, out=tmp_path / str(skipped), mae=replace(config.mae, skip_holes=skipped)))
        rows = tiny_job.trained_on(tmp_path / str(skipped))[2:]
        losses[skipped] = [loss for stage, _, loss in rows if stage == "stage1"]  # pyright: ignore
    assert len(losses[True]) == 12 and losses[True][0] != losses[False][0]

"""How a transfer table starts: what it refuses before it takes features, names of checkpoints, disks that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from understudy.loader import Clip, EvalViews
from understudy.models.vit import VideoViT, ViTConfig
from understudy.recipes.entries import open_model
from understudy.recipes.features import frozen_features
from understudy.recipes.transfer import check, command_line, main
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

VIT = ViTConfig(frames=4, size=32, patch=8, width=32, depth=1, heads=2)
CLIP = Clip(frames=4, stride=1, size=32)
SHAPE = [
    *("--vit.frames", "4", "--vit.size", "32", "--vit.patch", "8", "--vit.width", "32", "--vit.depth", "1"),
    *("--stride", "1", "--threads", "1", "--precision", "no"),
]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Path]) -> Path:
    """bars-train and bars-val."""
    root = tmp_path_factory.mktemp("bars")
    for split in ("train", "val"):
        make_corpus(root / f"bars-{split}", 6, frames=6, size=(40, 36), name=f"bars-{split}")
    return root


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--attentive.heads", "5"], r"scratch: 5 heads .*width of 32"),
        (["--attentive.epochs", "0"], r"--attentive: a probe needs"),
        (["--probe.seeds", "0"], r"--probe: a probe needs"),
        (["--finetune.batch-size", "0"], r"--finetune needs epochs above 0 and a batch"),
        (["--finetune.epochs", "-1"], r"--finetune needs epochs above 0 and a batch"),
        (["--finetune.seeds", "0"], r"--finetune.seeds 0: at least 1"),
        (["--protocols", "online", "--online.seeds", "0"], r"--online.seeds 0: at least 1"),
        (["--finetune.augment.erasing", "2"], r"augment needs"),
        (["--finetune.augment.mixup", "1", "--finetune.augment.group", "6"], r"--finetune: groups of 6 rows don't fit"),
        (["--average", "scratch", "scratch", "--averaging.batch-size", "0"], r"--averaging needs epochs"),
        (["--finetune.smoothing", "1.5"], r"--finetune needs smoothing from 0 to 1"),
        (["--finetune.crop-scale", "0.5", "0.2"], r"scale"),
    ],
)
def test_wrong_settings_are_told_before_features_are_taken(
    wrong: list[str], words: str, corpora: Path, tmp_path: Path
) -> None:
    config = command_line([*SHAPE, "--corpora", str(corpora / "bars"), "--out", str(tmp_path / "out"), *wrong])
    with pytest.raises(UserError, match=words) as told:
        main(config)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_settings_of_protocols_that_are_not_asked_for_do_not_matter(corpora: Path) -> None:
    linear = ["--protocols", "linear", "--attentive.epochs", "0", "--attentive.heads", "5", "--finetune.seeds", "0"]
    config = command_line([*SHAPE, *linear])
    check(config, [open_model("scratch", config.vit)], [], ranks=2)
    config = command_line([*SHAPE, "--protocols", "finetune", "--finetune.batch-size", "6"])
    check(config, [open_model("scratch", config.vit)], [], ranks=2)
    with pytest.raises(UserError, match="a batch that 4 ranks divide, not 8 and 6"):
        check(config, [open_model("scratch", config.vit)], [], ranks=4)
    config = command_line([*SHAPE, "--protocols", "finetune", "--finetune.batch-size", "72"])
    with pytest.raises(UserError, match="36 lanes do not divide over 8 ranks"):
        check(config, [open_model("scratch", config.vit)], [], ranks=8)


def test_two_corpora_of_one_name_are_to_be_told_apart(corpora: Path, tmp_path: Path) -> None:
    def run(*named: str) -> list[dict[str, Any]]:
        linear = ["--protocols", "linear", "--probe.rates", "1e-1", "--probe.epochs", "1"]
        return main(command_line([*SHAPE, *linear, "--out", str(tmp_path), "--corpora", *named]))["rows"]

    with pytest.raises(UserError, match="NAME=PREFIX"):
        run(str(corpora / "bars"), str(corpora / "bars"))
    assert [row["task"] for row in run(str(corpora / "bars"), f"again={corpora / 'bars'}")] == ["bars", "again"]


def test_rates_to_choose_from_need_something_to_choose_by(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    for split in ("train", "val"):
        make_corpus(tmp_path / f"few-{split}", 3, frames=6, size=(40, 36), name=f"few-{split}")  # one of each class
    config = command_line([*SHAPE, "--corpora", str(tmp_path / "few"), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="few-train: no part of the training set can be held out"):
        main(config)
    assert not (tmp_path / "out").exists()


def test_a_name_ends_at_the_first_equals_sign_and_holds_no_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    VideoViT(VIT).save_pretrained("runs/lr=1e-3/stage2")
    assert open_model("runs/lr=1e-3/stage2", VIT).name == "lr=1e-3/stage2"
    assert open_model("ours=runs/lr=1e-3/stage2", VIT).name == "ours"
    assert open_model(f"{tmp_path}/runs/lr=1e-3/stage2", VIT).name == "lr=1e-3/stage2"
    assert open_model("start=scratch", VIT).name == "start"
    assert open_model("scratch", VIT).name == "scratch"


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room_for_features_is_told_before_the_pass(
    reason: int, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"tokens of 6 videos take .* are free; make room, or ask for fewer views"):
        take(corpora, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_features_are_taken_before_the_pass(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    before = os.posix_fallocate

    def note(descriptor: int, offset: int, size: int) -> None:
        before(descriptor, offset, size)
        taken.append(os.fstat(descriptor).st_blocks * 512)

    monkeypatch.setattr(os, "posix_fallocate", note)
    take(corpora, tmp_path)
    (file,) = tmp_path.iterdir()
    assert len(taken) == 1 and taken[0] >= file.stat().st_size > 6 * VIT.tokens * VIT.width * 2


def take(corpora: Path, cache: Path) -> None:
    torch.manual_seed(0)
    corpus = Corpus.open(corpora / "bars-val")
    frozen_features(
        Accelerator(cpu=True), VideoViT(VIT), corpus, CLIP, EvalViews(1, 1), level="tokens", threads=1, cache=cache
    )

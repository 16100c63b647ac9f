"""One stage of the main job alone: stage 1, or stage 2 from an encoder that is there; and no probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import yaml

from understudy.models.vit import VideoViT, ViTConfig
from understudy.recipes.mixed import command_line, main
from understudy.recipes.share import Share, share
from understudy.shards.errors import UserError

SHORT = [*tiny_job.FLAGS, "--stage1.steps=2", "--stage2.steps=2"]


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bars")
    tiny_job.make_corpora(root)
    return root


@pytest.fixture(scope="module")
def both(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both")
    main(command_line([*tiny_job.arguments(bars, out), *SHORT]))
    return out


def align(bars: Path, out: Path, start: object, *more: str) -> dict[str, Any]:
    corpora = ["--align-corpora", *(str(bars / name) for name in tiny_job.CORPORA), "--start", str(start)]
    return main(command_line([*SHORT, *corpora, "--out", str(out), *more]))


def weights(stage: Path) -> bytes:
    return (stage / "encoder.safetensors").read_bytes()


def test_two_halves_are_the_whole(bars: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = ["--mae-corpora", str(bars / "bars"), "--stages=stage1", "--out", str(tmp_path / "first")]
    assert main(command_line([*SHORT, *alone])) == {}
    assert "no probe: neither --probe-train nor --probe-val" in capsys.readouterr().out
    assert weights(tmp_path / "first" / "stage1") == weights(both / "stage1")
    assert not (tmp_path / "first" / "stage2").exists()
    probe = ["--probe-train", str(bars / "lines"), "--probe-val", str(bars / "bars")]
    rows = align(bars, tmp_path / "second", tmp_path / "first" / "stage1", *probe)["rows"]
    assert weights(tmp_path / "second" / "stage2") == weights(both / "stage2")
    assert [row["model"] for row in rows] == ["scratch", "aligned", "start"]
    assert [[stage["stage"] for stage in row["trained_on"]] for row in rows] == [[], ["stage1", "stage2"], ["stage1"]]
    whole = json.loads((both / "results.json").read_text())["rows"][1]
    assert (rows[1]["digest"], rows[1]["top1"]) == (whole["digest"], whole["top1"])
    share(Share(tmp_path / "second" / "stage2", tmp_path / "shared", licence="mit"))
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "| stage1 | bars |" in card and "| stage2 | lines |" in card and "knows nothing" not in card


def test_stage_1_alone_can_be_gone_on_with(bars: Path, both: Path, tmp_path: Path) -> None:
    arguments = [*tiny_job.arguments(bars, tmp_path), *SHORT]
    results = main(command_line([*arguments, "--stages=stage1"]))
    assert [row["model"] for row in results["rows"]] == ["scratch", "MAE only"]
    assert not (tmp_path / "stage2").exists()
    main(command_line(arguments))
    assert weights(tmp_path / "stage2") == weights(both / "stage2")


def test_scratch_and_weights_of_others_are_starts(bars: Path, tmp_path: Path) -> None:
    assert align(bars, tmp_path / "scratch", "scratch") == {}
    assert not (tmp_path / "scratch" / "start.json").exists()
    shape = ViTConfig(frames=4, size=32, patch=16, width=48, depth=1, heads=3)  # not what the flags say
    VideoViT(shape).save_pretrained(tmp_path / "theirs")
    align(bars, tmp_path / "run", tmp_path / "theirs")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["vit"]["width"] == 48
    share(Share(tmp_path / "run" / "stage2", tmp_path / "shared", licence="mit"))
    card = (tmp_path / "shared" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert "of whose training data this card knows nothing" in card
    VideoViT(shape).save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="began with other weights of"):
        align(bars, tmp_path / "run", tmp_path / "theirs")


def test_a_start_of_another_kind_is_refused(bars: Path, both: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was trained on a corpus of kind synthetic; add --allow-kinds no-human synth"):
        align(bars, tmp_path / "run", both / "stage1", "--allow-kinds", "no-human")
    with pytest.raises(UserError, match="--ablate compares both stages"):
        align(bars, tmp_path / "run", both / "stage1", "--ablate")
    with pytest.raises(UserError, match="name the other corpora too, with --probe-val"):
        align(bars, tmp_path / "run", both / "stage1", "--probe-train", str(bars / "bars"))
    assert not (tmp_path / "run").exists()

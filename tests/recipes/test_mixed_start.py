"""One stage of the main job alone: stage 1, or stage 2 from an encoder that is there; and no probe."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import yaml
from fake_readers import read_moving_bar  # pyright: ignore[reportMissingImports]

from understudy.models.vit import VideoViT, ViTConfig
from understudy.recipes import train, transfer
from understudy.recipes.mixed import command_line, main
from understudy.recipes.share import Share, share
from understudy.shards.errors import UserError
from understudy.shards.pack import PackConfig, pack
from understudy.shards.sources import Source

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


def test_what_weights_came_of_is_known_of_all_that_is_made_of_them(bars: Path, tmp_path: Path) -> None:
    """The gate for kinds and the card's words on people rest on it, however many runs lie between."""
    make_real(tmp_path / "people")
    shape = command_line(SHORT).vit
    VideoViT(shape).save_pretrained(tmp_path / "theirs")
    align(bars, tmp_path / "a", tmp_path / "theirs")
    align(bars, tmp_path / "b", tmp_path / "a" / "stage2")
    share(Share(tmp_path / "b" / "stage2", tmp_path / "shared", licence="mit"))
    said = f"It began with the weights `{tmp_path / 'theirs'}`, of whose training data this card knows nothing."
    assert said in (tmp_path / "shared" / "README.md").read_text()

    real = ["--mae-corpora", str(tmp_path / "people"), "--allow-kinds", "real", "no-human", "synthetic"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "remove_checkpoints", lambda folder: None)  # as if it had not finished
        args = [*SHORT, *real, "--stages=stage1", "--stage1.steps=3", "--log-every=1", "--save-every=1"]
        main(command_line([*args, "--out", str(tmp_path / "on-people")]))
    stage = tmp_path / "on-people" / "stage1"
    tuned = tune(bars, stage, tmp_path / "tuned")
    for start in (stage, stage / "encoder.safetensors", stage / "step-00000002", tuned, tuned / "model.safetensors"):
        with pytest.raises(UserError, match="was trained on a corpus of kind real"):
            align(bars, tmp_path / "c", start)
    align(bars, tmp_path / "c", tuned, "--allow-kinds", "real", "no-human", "synthetic")
    share(Share(tmp_path / "c" / "stage2", tmp_path / "third", licence="mit"))
    card = (tmp_path / "third" / "README.md").read_text()
    assert "clips show real people" in card and "knows nothing" not in card


def make_real(root: Path) -> None:
    """A corpus of kind real."""
    config = PackConfig("people", "real", tiny_job.CLASSES, "?", b"a secret for tests", short_side=80)
    sources = [Source(f"people/{i}", i % 3) for i in range(16)]
    pack(sources, partial(read_moving_bar, width=96, height=80), root, config, workers=0, progress=False)


def tune(bars: Path, checkpoint: Path, out: Path) -> Path:
    """The folder of an encoder that was fine-tuned on virtual people."""
    for split in ("train", "val"):
        (out / f"bars-{split}").parent.mkdir(exist_ok=True)
        (out / f"bars-{split}").symlink_to(bars / "bars")
    flags = ["--protocols", "finetune", "--finetune.epochs=0.1", "--finetune.batch-size=8", "--finetune.seeds=1"]
    flags += ["--stride=1", "--precision=no", "--threads=1", "--out", str(out), "--checkpoint", str(checkpoint)]
    transfer.main(transfer.command_line([*flags, "--corpora", str(out / "bars")]))
    (folder,) = out.glob("finetune-*")
    return folder


def test_a_bare_file_in_this_folder_is_a_checkpoint(
    bars: Path, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vit.safetensors").write_bytes(weights(both / "stage1"))
    monkeypatch.chdir(tmp_path)
    align(bars, tmp_path / "run", "vit.safetensors")
    assert json.loads((tmp_path / "run" / "start.json").read_text())["unknown"] == ["vit.safetensors"]


def test_a_start_of_another_kind_is_refused(bars: Path, both: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was trained on a corpus of kind synthetic; add --allow-kinds no-human synth"):
        align(bars, tmp_path / "run", both / "stage1", "--allow-kinds", "no-human")
    with pytest.raises(UserError, match="--ablate compares both stages"):
        align(bars, tmp_path / "run", both / "stage1", "--ablate")
    with pytest.raises(UserError, match="name the other corpora too, with --probe-val"):
        align(bars, tmp_path / "run", both / "stage1", "--probe-train", str(bars / "bars"))
    assert not (tmp_path / "run").exists()

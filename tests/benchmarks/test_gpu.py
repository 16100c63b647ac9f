"""The GPU benchmark, rehearsed on a CPU: its rows, what it counts, and that what is missing costs only its own rows."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gpu
import gpu_decode
import gpu_steps
import numpy as np
import pytest
import torch
from gpu_material import read_grained
from gpu_steps import Preset, Trainer, clip_flops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from understudy.loader import Batch, ClipLoader
from understudy.loader.request import BatchDecoder
from understudy.models.augment import Augment
from understudy.models.mae import MAEConfig
from understudy.models.vit import BASE, ViTConfig
from understudy.recipes.configs import ppma
from understudy.recipes.stages import run_stage
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.sources import Source

CPU = torch.device("cpu")
VIT = ViTConfig(frames=4, size=32, tubelet=2, patch=8, width=32, depth=2, heads=2)
TINY = replace(
    gpu.REHEARSAL,
    preset=Preset(VIT, MAEConfig(decoder_width=16, decoder_depth=1, decoder_heads=1), rows=8, seconds=0.02, rounds=1),
    checked=2,
    seconds=0.02,
    sizes=(4,),
)


@pytest.fixture(scope="module")
def packed(make_corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("packed")
    return [str(make_corpus(root / codec, 8, codec=codec, name=codec)) for codec in ("mjpeg", "h264")]


def run(out: Path, packed: list[str], *options: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The JSON that the benchmark writes, and its rows by name."""
    assert gpu.main(["--out", str(out), "--device", "cpu", "--corpus", *packed, *options]) == 0
    result = json.loads((out / "gpu.json").read_text())
    return result, {row["name"]: row for row in result["rows"]}


@pytest.mark.parametrize("stage", gpu.STAGES)
def test_flops_are_those_that_pytorch_counts(stage: gpu_steps.StageName) -> None:
    preset = replace(TINY.preset, rows=3)
    trainer = Trainer(stage, preset, CPU)
    assert trainer.strength == (ppma().stage2.augment if stage == "stage2" else Augment())
    batch = gpu_steps.still_batch(preset, CPU, 3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        trainer.step(batch)
    assert counted.get_total_flops() == pytest.approx(3 * clip_flops(stage, VIT, preset.mae), rel=1e-6)


@pytest.mark.parametrize("name", gpu.STAGES)
def test_a_step_is_the_products(
    name: gpu_steps.StageName, packed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One step of recipes/stages.py on a model, and of the benchmark on its twin and the batch that was taken there.
    trainer = Trainer(name, TINY.preset, CPU)
    twin = copy.deepcopy(trainer.module)
    config = replace(ppma(), vit=VIT, mae=TINY.preset.mae, out=tmp_path, seed=gpu_steps.SEED, log_every=1, save_every=1)
    config = replace(config, stage2=replace(config.stage2, augment=replace(config.stage2.augment, group=0)))
    one_step = {s: replace(getattr(config, s), batch_size=8, views=1, steps=1, warmup=0) for s in gpu.STAGES}
    batches: list[Batch] = []
    take = ClipLoader.__next__

    def keep(loader: ClipLoader) -> Batch:
        batches.append(take(loader))
        return batches[-1]

    monkeypatch.setattr(ClipLoader, "__next__", keep)
    report = run_stage(trainer.accelerator, name, twin, [Corpus.open(packed[0])], replace(config, **one_step))
    assert trainer.step(batches[0]).item() == pytest.approx(report.final_loss, rel=1e-6)


def test_flops_of_the_base_preset() -> None:
    # By hand: 12 blocks of width 768 on 157 or 1,568 tokens, 4 of width 384 on 1,568.
    blocks = {"stage1": 12 * 2.299e9 + 4 * 9.325e9, "stage2": 12 * 29.75e9}
    for stage, forward in blocks.items():
        assert 3 * forward < clip_flops(stage, BASE, MAEConfig()) < 3.2 * forward


def test_every_section_rehearses_on_a_cpu(
    packed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(gpu, "REHEARSAL", TINY)
    monkeypatch.setattr(gpu, "COMPILING_S", 3600.0)  # never, and time enough for all the rest
    result, rows = run(tmp_path, packed, "--minutes", "30")
    assert {row["section"] for row in rows.values()} == {*gpu.SECTIONS} - {"decoders"}
    for name, row in rows.items():
        if "dali" in name.lower() and "h264" in name:
            assert row["value"] is None
            assert "GPUs only" in row["note"]
        elif row["section"] == "compiled":
            assert row["note"] == "not measured: no time left"
        else:
            assert row["note"] == "", name
            assert row["value"] is not None, name
    assert rows["dali, mjpeg: mean difference"]["details"]["agrees"]
    assert rows["dali, mjpeg: a bad sample is harmless"]["value"] is True
    cost = rows["stage2: a step with augmentation over one without"]
    assert cost["value"] == pytest.approx(cost["details"]["augmented_ms"] / cost["details"]["without_ms"])
    assert cost["details"]["augment"] == asdict(ppma().stage2.augment)
    assert rows["loader, dali, mjpeg, K=4"]["details"]["cpu_ms_per_clip"] > 0
    step = rows["stage1, auto, mjpeg, K=4: with the loader over cached"]
    assert step["value"] == pytest.approx(step["details"]["real_ms"] / step["details"]["cached_ms"])
    assert result["flop_per_clip"]["stage1"] == clip_flops("stage1", VIT, TINY.preset.mae)
    assert result["material"]["h264"]["clips"] == 8
    assert (tmp_path / "profile-stage2.txt").read_text()
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(rows)
    assert "agrees" in printed


def test_a_missing_dali_costs_only_its_rows(packed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "REHEARSAL", TINY)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    _, rows = run(tmp_path, packed, "--only", "agreement")
    assert "DALI can't be used here" in rows["dali, mjpeg: mean difference"]["note"]
    assert rows["native, mjpeg: mean difference"]["note"] == ""


def test_nothing_is_started_after_the_time_is_up(
    packed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "REHEARSAL", TINY)
    _, rows = run(tmp_path, packed, "--minutes", "0")
    assert {row["note"] for row in rows.values()} == {"not measured: no time left"}


def test_a_decoder_that_is_wrong_does_not_agree(packed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, clip = Corpus.open(packed[0]), gpu_steps.clip_of(VIT)
    right = gpu_decode.agreement("reference", corpus, clip, CPU, 4)
    assert right["agrees"]
    assert right["max_difference"] == 0

    def frames_late(requests: Any, verdicts: Any, out: torch.Tensor) -> list[str | None]:
        late = [replace(request, frames=request.frames[[1, 2, 3, 3]]) for request in requests]
        return gpu_decode.decode_reference(late, out.numpy())

    monkeypatch.setattr(gpu_decode, "choose_decoder", lambda *_: BatchDecoder(CPU, lambda _: None, frames_late))
    wrong = gpu_decode.agreement("dali", corpus, clip, CPU, 4)
    assert not wrong["agrees"]
    assert not wrong["same_frames"]


def test_made_video_is_the_same_each_time_and_as_large_as_real_video() -> None:
    source = Source("0003", 0)
    frames = list(read_grained(source, width=340, height=256, frames=4))
    again = list(read_grained(source, width=340, height=256, frames=4))
    np.testing.assert_array_equal(frames, again)
    assert frames[0].shape == (256, 340, 3)
    encoded = encode(iter(frames), "mjpeg", fps=6, quality=85)
    assert 10_000 < len(encoded.members["mjpg"]) / 4 < 20_000  # real ones: 14,700


def test_without_corpora_the_model_is_still_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ImportError("no module for tars")

    monkeypatch.setattr(gpu, "REHEARSAL", TINY)
    monkeypatch.setattr(gpu.material, "make_corpora", fail)
    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--only", "training", "batches"]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert "no module for tars" in rows["corpora made here, in each codec"]["note"]
    assert rows["stage1, 4 clips"]["value"] > 0

"""A checkpoint of today must be gone on with tomorrow: its files, their names and shapes, and what comes after it.

A change here breaks the resuming of runs. If it is meant, say so where it is made, and write this file anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from understudy.loader import Batch, Clip, ClipLoader, LoaderSource, Views
from understudy.models.align import Aligner
from understudy.models.vit import ViTConfig
from understudy.recipes import train
from understudy.recipes.stage import Stage, StageReport
from understudy.recipes.train import train_stage
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

VIT = ViTConfig(frames=2, size=8, tubelet=2, patch=4, width=8, depth=1, heads=2, mlp_ratio=2)
MATRICES = {
    "encoder.patch_embed.proj.weight": (8, 3, 2, 4, 4),
    "encoder.blocks.0.attn.qkv.weight": (24, 8),
    "encoder.blocks.0.attn.proj.weight": (8, 8),
    "encoder.blocks.0.mlp.fc1.weight": (16, 8),
    "encoder.blocks.0.mlp.fc2.weight": (8, 16),
    "heads.corpus-a.weight": (2, 8),
    "heads.corpus-train.weight": (3, 8),
}
VECTORS = {
    "encoder.patch_embed.proj.bias": (8,),
    "encoder.blocks.0.norm1.weight": (8,),
    "encoder.blocks.0.norm1.bias": (8,),
    "encoder.blocks.0.attn.qkv.bias": (24,),
    "encoder.blocks.0.attn.proj.bias": (8,),
    "encoder.blocks.0.norm2.weight": (8,),
    "encoder.blocks.0.norm2.bias": (8,),
    "encoder.blocks.0.mlp.fc1.bias": (16,),
    "encoder.blocks.0.mlp.fc2.bias": (8,),
    "encoder.norm.weight": (8,),
    "encoder.norm.bias": (8,),
    "heads.corpus-a.bias": (2,),
    "heads.corpus-train.bias": (3,),
}
WEIGHTS = {**MATRICES, **VECTORS}  # the optimizer's order: what decays, then what does not
HEADER = {
    "understudy.vit": {
        **{"frames": 2, "size": 8, "tubelet": 2, "patch": 4, "width": 8, "depth": 1, "heads": 2, "mlp_ratio": 2},
        **{"pool": "mean", "eps": 1e-6, "final_eps": 1e-6},
    }
}
CORPORA = {
    name: {"kind": "synthetic", "licence": "CC0-1.0", "samples": 9, "digest": name * 8} for name in ("a", "train")
}
STATE = {
    "report": {
        **{"steps": 2, "samples": 8, "seconds": 1.5, "data_seconds": 0.5, "skipped": 1, "final_loss": 1.25},
    },
    "ledger": {
        "corpora": CORPORA,
        "steps": 2,
        "digest": "0123456789abcdef" * 4,
        "seen": {"a": 4, "train": 4},
        "skipped": {"a": {"decode": 1}},
        "replaced": [{"source": "a", "until": 1, **CORPORA["train"]}],
    },
    "loader": {
        "version": 1,
        "seed": 7,
        "batch_size": 4,
        "clip": {"frames": 2, "stride": 1, "size": 8},
        "views": {"count": 1, "scale": [0.5, 1.0], "ratio": [0.75, 1.25], "flip": False},
        "lanes": 4,
        "group": 8,
        "sources": [{"digest": "aa", "weight": 1.0}],
        "step": 2,
    },
}


# What comes of steps 3 and 4: losses, the digest of the ledger, and sums over some of the averaged weights.
LOSSES = [0.694249, 1.146082]
DIGEST = "f48753e45befcc956ad0eb0ee827184bf42f6623fa61afbf4de8618f74011acc"
SUMS = {"patch_embed.proj.weight": 192.06219, "blocks.0.mlp.fc1.bias": 4.1931, "norm.weight": 1.8093}


def wave(shape: tuple[int, ...], number: int) -> Tensor:
    """Numbers that are the same everywhere, and others for another `number`."""
    count = torch.tensor(shape).prod().item() if shape else 1
    return (0.2 * torch.sin(torch.arange(count) + number)).reshape(shape)


def write_golden(folder: Path) -> None:
    """A checkpoint after step 2, without our code."""
    folder.mkdir(parents=True)
    about = {key: json.dumps(value) for key, value in HEADER.items()}
    weights = {name: wave(shape, number) for number, (name, shape) in enumerate(WEIGHTS.items())}
    optimizer: dict[str, Tensor] = {}
    for number, shape in enumerate(WEIGHTS.values()):
        optimizer[f"{number}.step"] = torch.tensor(2.0)
        optimizer[f"{number}.exp_avg"] = wave(shape, 100 + number)
        optimizer[f"{number}.exp_avg_sq"] = wave(shape, 200 + number) ** 2 + 0.01
    save_file(weights, folder / "model.safetensors", about)
    save_file(optimizer, folder / "optimizer.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "average.safetensors")
    (folder / "state.json").write_text(json.dumps(STATE))


def form_of(value: Any) -> Any:
    """Keys and types of JSON, without its values."""
    if isinstance(value, Mapping):
        return {key: form_of(entry) for key, entry in value.items()}
    return [form_of(entry) for entry in value] if isinstance(value, list) else type(value).__name__


def form_of_checkpoint(folder: Path) -> dict[str, Any]:
    """Of every file all but the values."""
    forms: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.suffix == ".json":
            forms[path.name] = form_of(json.loads(path.read_text()))
            continue
        with safe_open(path, "pt") as opened:
            about = {key: json.loads(value) for key, value in (opened.metadata() or {}).items()}
        tensors = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in load_file(path).items()}
        forms[path.name] = (about, tensors)
    return forms


class FixedBatches:
    """In place of a loader: batches that are the same everywhere."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __next__(self) -> Batch:
        step = self.state["step"]
        self.state["step"] += 1
        clips = (torch.arange(4 * 3 * 2 * 8 * 8) * (37 + step) % 256).to(torch.uint8).reshape(4, 3, 2, 8, 8)
        source = ("a", "train")[step % 2]
        return Batch(clips, torch.tensor([0, 1, 1, 0]), source, torch.arange(4) + step, torch.ones(4, dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state == STATE["loader"]
        self.state = dict(state)

    @property
    def skipped(self) -> dict[tuple[str, str], int]:
        return {}


def go_on(out: Path) -> StageReport:
    """Train to step 4, with a checkpoint of step 3."""

    def loss_of(model: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return model(batch.clips, batch.labels, batch.ok, batch.source, 0.1)

    corpora = [
        SimpleNamespace(manifest=SimpleNamespace(name=name, nsamples=about["samples"], **about))
        for name, about in CORPORA.items()
    ]
    return train_stage(
        Accelerator(cpu=True),
        "stage2",
        Aligner(VIT, {"a": 2, "train": 3}, drop_path=0.0),
        FixedBatches(),
        Stage(steps=4, batch_size=4, views=1, rate=1e-2, warmup=0, weight_decay=0.05, ema=0.5),
        loss_of,
        out,
        depth=VIT.depth,
        seed=0,
        log_every=1,
        save_every=1,
        compiled=False,
        corpora=cast("list[Corpus]", corpora),
    )


def test_the_golden_checkpoint_is_gone_on_with_and_the_next_has_its_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tmp_path / "stage2"
    write_golden(stage / "step-00000002")
    monkeypatch.setattr(train, "remove_checkpoints", lambda folder: None)
    report = go_on(tmp_path)
    assert sorted(path.name for path in stage.glob("step-*")) == ["step-00000002", "step-00000003"]
    before, after = (form_of_checkpoint(stage / f"step-0000000{step}") for step in (2, 3))
    assert after == before
    assert set(before) == {"model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"}
    assert json.loads((stage / "step-00000003" / "state.json").read_text())["loader"] == {**STATE["loader"], "step": 3}

    # What it means: weights, moments, average, counts and the digest so far have all had their effect.
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert (report.steps, report.samples, report.skipped) == (4, 16, 1) and report.seconds > 1.5
    ledger = json.loads((stage / "ledger.json").read_text())
    assert ledger == {**STATE["ledger"], "steps": 4, "seen": {"a": 8, "train": 8}, "digest": DIGEST}
    average = load_file(stage / "encoder.safetensors")
    sums = {name: average[name].sum().item() for name in SUMS}
    assert sums == pytest.approx(SUMS, rel=1e-4)


def test_the_loaders_state_in_it_has_the_form_of_a_loaders(make_corpus: Any, tmp_path: Path) -> None:
    corpus = Corpus.open(make_corpus(tmp_path / "tiny", 8))
    with ClipLoader([LoaderSource(corpus, 1.0)], Clip(2, 1, 8), Views(1), batch_size=4, seed=7, threads=1) as loader:
        assert form_of(loader.state_dict()) == form_of(STATE["loader"])


def test_a_checkpoint_of_other_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "stage2" / "step-00000002"
    write_golden(folder)
    weights = load_file(folder / "model.safetensors")
    bare = {name.replace("corpus-", ""): tensor for name, tensor in weights.items()}
    save_file(bare, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"heads\.corpus-a\.weight is missing .*delete them to train it again$") as told:
        go_on(tmp_path)
    assert "\n" not in str(told.value)


def test_the_report_and_the_config_are_all_in_it() -> None:
    assert form_of(asdict(StageReport(2, 8, 1.5, 0.5, 1, 1.25))) == form_of(STATE["report"])
    assert asdict(VIT) == HEADER["understudy.vit"]

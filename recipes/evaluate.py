"""Linear probe of frozen encoders on held-out corpora, and the rows and table that report it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from understudy.loader import Clip, EvalLoader, EvalViews
from understudy.models.probe import ProbeConfig, linear_probe
from understudy.models.stats import paired_difference, wilson
from understudy.models.vit import VideoViT
from understudy.recipes.train import StageReport
from understudy.shards.errors import UserError
from understudy.shards.manifest import Corpus


@dataclass(frozen=True)
class Accuracy:
    """One encoder's probe: `correct` (videos,) float64 is each video's share of right answers over `seeds` probes."""

    model: str
    correct: NDArray[np.float64]
    seeds: int


@torch.no_grad()
def extract_features(
    accelerator: Accelerator,
    encoder: VideoViT,
    corpus: Corpus,
    clip: Clip,
    views: EvalViews,
    *,
    threads: int,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Features (videos, views, width) float32 of all videos in the corpus's order, and ok (videos,); on every rank."""
    encoder = encoder.to(accelerator.device).eval()
    per_video = views.clips * views.crops
    features = torch.zeros(len(corpus), per_video, encoder.config.width, device=accelerator.device)
    ok = torch.zeros(len(corpus), dtype=torch.bool, device=accelerator.device)
    loader = EvalLoader(
        corpus,
        clip,
        views,
        batch_size=max(1, batch_size // per_video) * per_video * accelerator.num_processes,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        threads=threads,
    )
    silent = None if accelerator.is_main_process else True
    for batch in tqdm(loader, desc=f"features of {corpus.manifest.name}", disable=silent, leave=False):
        with accelerator.autocast():
            rows = encoder(batch.clips).float()
        rows, ids, row_ok = accelerator.gather((rows, batch.ids, batch.ok))
        ids, row_ok = ids[::per_video], row_ok[::per_video]
        real = ids >= 0  # padding, which makes the last batch whole, has no id
        features[ids[real]] = rows.view(-1, per_video, rows.shape[1])[real]
        ok[ids[real]] = row_ok[real]
    return features, ok


def probe_encoder(
    accelerator: Accelerator,
    name: str,
    encoder: VideoViT,
    train: Corpus,
    val: Corpus,
    clip: Clip,
    views: EvalViews,
    config: ProbeConfig,
    *,
    threads: int,
) -> Accuracy:
    """Probe a frozen encoder: train on every view of `train`, average the logits of a `val` video's views.

    Videos that can't be decoded are left out of training, and count as wrong in validation.
    """
    started = time.perf_counter()
    features, ok = extract_features(accelerator, encoder, train, clip, views, threads=threads)
    held_out, held_out_ok = extract_features(accelerator, encoder, val, clip, views, threads=threads)
    if not ok.any():
        raise UserError(f"{train.root}: no sample can be decoded; run `understudy lint {train.root}`")
    device = accelerator.device
    labels = torch.from_numpy(train.label).to(device)[ok].repeat_interleave(features.shape[1])
    logits = linear_probe(
        features[ok].flatten(0, 1), labels, held_out.flatten(0, 1), len(train.manifest.classes), config
    )
    scores = logits.view(config.seeds, len(val), -1, logits.shape[-1]).mean(dim=2)
    right = (scores.argmax(dim=2) == torch.from_numpy(val.label).to(device)) & held_out_ok
    accelerator.print(f"probed {name} in {time.perf_counter() - started:.1f} s")
    return Accuracy(name, right.double().mean(dim=0).cpu().numpy(), config.seeds)


def results_rows(accuracies: Sequence[tuple[Accuracy, Sequence[StageReport]]], task: str) -> list[dict[str, Any]]:
    """Rows of `results.json`: each model with Wilson's 95 % interval over the videos, then each model's difference
    to the first with a paired bootstrap interval. Throughput is over all stages that the model was trained in.
    """
    rows: list[dict[str, Any]] = []
    for accuracy, reports in accuracies:
        videos = len(accuracy.correct)
        low, high = wilson(float(accuracy.correct.sum()), videos)
        seconds = sum(report.seconds for report in reports)
        rows.append(
            {
                "model": accuracy.model,
                "task": task,
                "protocol": "linear probe",
                "top1": float(accuracy.correct.mean()),
                "low": low,
                "high": high,
                "videos": videos,
                "seeds": accuracy.seeds,
                "train_samples_per_second": sum(r.samples for r in reports) / seconds if reports else None,
                "data_share": sum(r.data_seconds for r in reports) / seconds if reports else None,
                "steps": sum(report.steps for report in reports),
                "skipped": sum(report.skipped for report in reports),
            }
        )
    baseline = accuracies[0][0]
    for (accuracy, _), row in zip(accuracies[1:], rows[1:]):
        mean, low, high = paired_difference(accuracy.correct, baseline.correct)
        protocol = "linear probe, paired difference"
        named = {"model": f"{accuracy.model} - {baseline.model}", "protocol": protocol}
        rows.append({**row, **named, "top1": mean, "low": low, "high": high})
    return rows


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | task | top-1 % | 95 % interval | steps | clips/s in training | waiting for data |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        signed = "+.1f" if "difference" in row["protocol"] else ".1f"
        top1, low, high = (format(100 * row[key], signed) for key in ("top1", "low", "high"))
        speed = "-" if row["train_samples_per_second"] is None else f"{row['train_samples_per_second']:.0f}"
        share = "-" if row["data_share"] is None else f"{row['data_share']:.1%}"
        lines.append(
            f"| {row['model']} | {row['task']} | {top1} | {low} to {high} | {row['steps']} | {speed} | {share} |"
        )
    return "\n".join(lines)

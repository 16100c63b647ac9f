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

from understudy.loader import Clip, EvalViews
from understudy.models.probe import ProbeConfig
from understudy.models.stats import accuracy_interval, paired_difference
from understudy.models.vit import VideoViT
from understudy.recipes.features import frozen_features
from understudy.recipes.probing import probe_linearly
from understudy.recipes.train import StageReport
from understudy.shards.manifest import Corpus


@dataclass(frozen=True)
class Accuracy:
    """One encoder's probe: `correct` (videos,) float64 is each video's share of right answers over `seeds` probes."""

    model: str
    correct: NDArray[np.float64]
    seeds: int


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
    train_features, val_features = (
        frozen_features(
            accelerator, encoder, corpus, clip, views, level="pooled", threads=threads, cache=None, batch_size=64
        )
        for corpus in (train, val)
    )
    scores = probe_linearly(train_features, val_features, train, config, accelerator.device)
    right = (scores.logits.argmax(dim=2) == torch.from_numpy(val.label)) & val_features.ok
    accelerator.print(f"probed {name} in {time.perf_counter() - started:.1f} s")
    return Accuracy(name, right.double().mean(dim=0).numpy(), config.seeds)


def results_rows(accuracies: Sequence[tuple[Accuracy, Sequence[StageReport]]], val: Corpus) -> list[dict[str, Any]]:
    """Rows of `results.json`: each model with its 95 % interval over the videos of `val`; then the difference of
    each to the first, and of PPMA to alignment only, with a paired bootstrap interval in which the videos of one group
    are drawn together. Throughput is over all stages that the model was trained in.
    """
    rows: list[dict[str, Any]] = []
    for accuracy, reports in accuracies:
        videos = len(accuracy.correct)
        low, high = accuracy_interval(accuracy.correct, val.group)
        seconds = sum(report.seconds for report in reports)
        rows.append(
            {
                "model": accuracy.model,
                "task": val.manifest.name,
                "protocol": "linear probe",
                "top1": float(accuracy.correct.mean()),
                "low": low,
                "high": high,
                "videos": videos,
                "groups": len(set(val.group.tolist())),
                "seeds": accuracy.seeds,
                "train_samples_per_second": sum(r.samples for r in reports) / seconds if reports else None,
                "data_share": sum(r.data_seconds for r in reports) / seconds if reports else None,
                "steps": sum(report.steps for report in reports),
                "skipped": sum(report.skipped for report in reports),
            }
        )
    of = {accuracy.model: (accuracy, row) for (accuracy, _), row in zip(accuracies, rows)}
    pairs = [(accuracy.model, accuracies[0][0].model) for accuracy, _ in accuracies[1:]]
    if "alignment only" in of:
        pairs.append(("PPMA", "alignment only"))  # what stage 1 adds
    for model, baseline in pairs:
        accuracy, row = of[model]
        mean, low, high = paired_difference(accuracy.correct, of[baseline][0].correct, val.group)
        named = {"model": f"{model} - {baseline}", "protocol": "linear probe, paired difference"}
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

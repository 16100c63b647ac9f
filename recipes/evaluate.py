"""Linear probe of the main job's encoders on a held-out corpus, as rows that transfer's are like."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from understudy.loader import Clip, EvalViews
from understudy.models.probe import ProbeConfig
from understudy.recipes.entries import Model, Task, describe_views, machine
from understudy.recipes.features import frozen_features, view_count
from understudy.recipes.outcome import Outcome, differences_of, rows_of
from understudy.recipes.probing import probe_linearly
from understudy.recipes.stage import StageReport
from understudy.shards.corpus import Corpus


def probe_encoder(
    accelerator: Accelerator,
    model: Model,
    reports: Sequence[StageReport],
    task: Task,
    clip: Clip,
    views: EvalViews,
    config: ProbeConfig,
    *,
    threads: int,
) -> Outcome:
    """Probe a frozen encoder: train on every view of `task.train`, average the logits of a `task.val` video's views.

    `reports` are of the stages that this run trained it in: steps, speed and waiting in the row are of them all.
    Videos that can't be decoded are left out of training, and count as wrong in validation.
    """
    started = time.perf_counter()
    train, val = (
        frozen_features(
            accelerator, model.encoder, corpus, clip, views, level="pooled", threads=threads, cache=None, batch_size=64
        )
        for corpus in (task.train, task.val)
    )
    scores = probe_linearly(train, val, task.train, config, accelerator.device)
    seconds = sum(report.seconds for report in reports)
    about = {**model.about, "task_digest": task.val.manifest.digest}
    about |= {"val_views": describe_views(views), "train_views": describe_views(views)}
    about |= {"rate": scores.rate, "tuning": scores.tuning, "train_failed": int((~train.ok).sum())}
    about |= {"probe_seconds": scores.seconds, "feature_seconds": train.seconds + val.seconds}
    about |= {"feature_views": view_count(train) + view_count(val), "steps": sum(report.steps for report in reports)}
    about |= {"train_samples_per_second": sum(r.samples for r in reports) / seconds if reports else None}
    about |= {"data_share": sum(r.data_seconds for r in reports) / seconds if reports else None}
    about |= {"skipped": sum(report.skipped for report in reports)}
    accelerator.print(f"probed {model.name} in {time.perf_counter() - started:.1f} s")
    return Outcome(model.name, task.name, "linear", scores.logits, val.ok, about)


def results_of(accelerator: Accelerator, outcomes: Sequence[Outcome], val: Corpus) -> dict[str, Any]:
    """`results.json`: a row for each outcome; the difference of each to the first, and of PPMA to alignment only, which
    is what stage 1 adds.
    """
    differences = differences_of(outcomes, val, ())
    of = {outcome.model: outcome for outcome in outcomes}
    if {"PPMA", "alignment only"} <= set(of):
        differences += differences_of([of["alignment only"], of["PPMA"]], val, ())
    return {"machine": machine(accelerator), "rows": rows_of(outcomes, val, ()), "differences": differences}

"""PPMA pre-training on mixed sources, then a linear probe on actions never seen: `accelerate launch recipes/mixed.py`.

Stage 1 is masked autoencoding on videos without humans, stage 2 aligns with their labels and those of synthetic
humans. What is trained how is a function in `configs.py`; every value can be set here (`mixed.py demo --help`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import torch
import tyro

from understudy.models.align import Aligner
from understudy.models.mae import MaskedAutoencoder
from understudy.models.vit import VideoViT
from understudy.recipes.check import check_corpora, check_settings
from understudy.recipes.configs import DEMO_WEIGHTS, MixedConfig, as_released, demo, ppma, summary
from understudy.recipes.entries import Model, Task, open_model, scratch_model
from understudy.recipes.evaluate import probe_encoder, results_of
from understudy.recipes.stage import StageReport
from understudy.recipes.stages import clip_of, run_stage
from understudy.recipes.start import (
    check_output,
    claim_output,
    make_accelerator,
    open_corpora,
    open_start,
    threads_of,
    told_in_one_line,
)
from understudy.recipes.table import PRETRAINING, results_table
from understudy.recipes.track import start_tracker
from understudy.recipes.train import step_seed
from understudy.shards.demo import make_demo
from understudy.shards.files import write_atomic
from understudy.shards.machine import usable_cores


def main(config: MixedConfig) -> dict[str, Any]:
    """Run the job; returns what is written to `results.json`."""
    # What is wrong is found before anything is trained, and leaves the output folder to the corrected command.
    accelerator = make_accelerator(config, config.track, config.out)
    if start := open_start(config):
        config = replace(config, vit=start.encoder.config)
    if on_demo := not config.mae_corpora and not config.align_corpora:
        config = replace(config, align_weights=config.align_weights or DEMO_WEIGHTS)
    check_settings(config)
    if accelerator.is_main_process:
        check_output(config, start)
        if on_demo:
            make_demo(config.out / "corpora", clips=config.demo_clips, seed=config.seed, workers=usable_cores())
    accelerator.wait_for_everyone()
    corpora = open_corpora(config)
    check_corpora(config, corpora, accelerator)
    if accelerator.is_main_process:
        claim_output(config, corpora, start)
    accelerator.wait_for_everyone()
    start_tracker(accelerator, config.track, config.out, asdict(config))

    def trained(name: str, stage: str) -> Model:
        return open_model(f"{name}={config.out / stage}", config.vit)

    # Stage 1: reconstruct what is masked, on videos without humans.
    torch.manual_seed(step_seed(config.seed, "init"))
    autoencoder = MaskedAutoencoder(config.vit, config.mae)
    scratch = scratch_model(deepcopy(autoencoder.encoder))
    models: list[tuple[Model, tuple[StageReport, ...]]] = [(scratch, ())]
    if config.start is None:
        stage1 = run_stage(accelerator, "stage1", autoencoder, corpora["mae"], config)
        before, mae = (stage1,), trained("MAE only", "stage1")
    else:
        before, mae = (), start and replace(start, name="start")

    # Stage 2: name what happens, on videos without humans and on synthetic humans, one corpus a batch.
    classes = {corpus.manifest.name: len(corpus.manifest.classes) for corpus in corpora["align"]}

    def align(name: str, encoder: VideoViT) -> StageReport:
        torch.manual_seed(step_seed(config.seed, "init-align"))
        aligner = Aligner(config.vit, classes, drop_path=config.drop_path, shared_head=config.shared_head)
        aligner.load_encoder(encoder.state_dict(), fresh_norm=config.fresh_norm)
        return run_stage(accelerator, name, aligner, corpora["align"], config)

    if config.stages == "both":
        stage2 = align("stage2", (mae or scratch).encoder)
        name = "PPMA" if config.start is None else "aligned" if mae else "alignment only"
        models.append((trained(name, "stage2"), (*before, stage2)))
    if mae and (config.ablate or config.start or config.stages == "stage1"):
        models.append((mae, before))
    if config.ablate:
        stage2_only = align("stage2-only", scratch.encoder)
        models.append((trained("alignment only", "stage2-only"), (stage2_only,)))

    # Probe: a linear classifier on frozen features, actions that pre-training never saw.
    if not corpora["probe"]:
        accelerator.print(
            f"no probe: neither --probe-train nor --probe-val is given; what was trained is in {config.out}"
        )
        accelerator.end_training()
        return {}
    train, val = corpora["probe"]
    task, threads = Task(val.manifest.name, train, val), threads_of(config)
    outcomes = [
        probe_encoder(
            accelerator, model, reports, task, clip_of(config), config.probe_views, config.probe, threads=threads
        )
        for model, reports in models
    ]
    results = results_of(accelerator, outcomes, val)
    if accelerator.is_main_process:
        write_atomic(config.out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
        print(results_table(results, PRETRAINING))
    accelerator.end_training()
    return results


def command_line(arguments: Sequence[str]) -> MixedConfig:
    """`[demo | ppma | as_released] [--key value ...]`; no config name means demo, an unknown key is an error."""
    if not arguments or (arguments[0].startswith("--") and arguments[0] != "--help"):
        arguments = ["demo", *arguments]
    configs = {f.__name__: (summary(f), f()) for f in (demo, ppma, as_released)}
    return tyro.extras.overridable_config_cli(
        configs, prog="mixed.py", description="Without a config name, demo is used.", args=list(arguments)
    )


if __name__ == "__main__":
    with told_in_one_line("mixed"):
        main(command_line(sys.argv[1:]))

"""PPMA pre-training on mixed sources, then a linear probe on actions never seen: `accelerate launch recipes/mixed.py`.

Stage 1 is masked autoencoding on videos without humans, stage 2 aligns with their labels and those of synthetic
humans. What is trained how is a function in `configs.py`; every value can be set here (`mixed.py demo --help`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
import tyro
from safetensors.torch import load_file
from torch import Tensor

from understudy.models.align import Aligner
from understudy.models.mae import MaskedAutoencoder
from understudy.recipes.check import check_corpora, check_settings
from understudy.recipes.configs import MixedConfig, as_released, demo, ppma
from understudy.recipes.entries import Model, Task, open_model, scratch_model
from understudy.recipes.evaluate import probe_encoder, results_of
from understudy.recipes.stages import clip_of, run_stage
from understudy.recipes.start import (
    check_output,
    claim_output,
    cores,
    make_accelerator,
    open_corpora,
    threads_of,
    told_in_one_line,
)
from understudy.recipes.table import PRETRAINING, results_table
from understudy.recipes.track import start_tracker
from understudy.recipes.train import ENCODER, StageReport, step_seed
from understudy.shards.demo import make_demo
from understudy.shards.files import write_atomic


def main(config: MixedConfig) -> dict[str, Any]:
    """Run the job; returns what is written to `results.json`."""
    # What is wrong is found before anything is trained, and leaves the output folder to the corrected command.
    accelerator = make_accelerator(config, config.track, config.out)
    check_settings(config)
    if accelerator.is_main_process:
        check_output(config)
        if not config.mae_corpora:
            make_demo(config.out / "corpora", clips=config.demo_clips, seed=config.seed, workers=cores())
    accelerator.wait_for_everyone()
    corpora = open_corpora(config)
    check_corpora(config, corpora, accelerator)
    if accelerator.is_main_process:
        claim_output(config)
    accelerator.wait_for_everyone()
    start_tracker(accelerator, config.track, config.out, asdict(config))

    # Stage 1: reconstruct what is masked, on videos without humans.
    torch.manual_seed(step_seed(config.seed, "init"))
    autoencoder = MaskedAutoencoder(config.vit, config.mae)
    scratch = scratch_model(deepcopy(autoencoder.encoder))
    stage1 = run_stage(accelerator, "stage1", autoencoder, corpora["mae"], config)
    reconstructed = load_file(config.out / "stage1" / ENCODER)

    # Stage 2: name what happens, on videos without humans and on synthetic humans, one corpus a batch.
    classes = {corpus.manifest.name: len(corpus.manifest.classes) for corpus in corpora["align"]}

    def of_stage(name: str, stage: str) -> Model:
        return open_model(f"{name}={config.out / stage}", config.vit)

    def align(name: str, start: dict[str, Tensor]) -> StageReport:
        torch.manual_seed(step_seed(config.seed, "init-align"))
        aligner = Aligner(config.vit, classes, drop_path=config.drop_path, shared_head=config.shared_head)
        aligner.load_encoder(start, fresh_norm=config.fresh_norm)
        return run_stage(accelerator, name, aligner, corpora["align"], config)

    stage2 = align("stage2", reconstructed)
    models = [(scratch, ()), (of_stage("PPMA", "stage2"), (stage1, stage2))]
    if config.ablate:
        stage2_only = align("stage2-only", scratch.encoder.state_dict())
        models.append((of_stage("MAE only", "stage1"), (stage1,)))
        models.append((of_stage("alignment only", "stage2-only"), (stage2_only,)))

    # Probe: a linear classifier on frozen features, actions that pre-training never saw.
    train, val = corpora["probe"]
    task, threads = Task(val.manifest.name, train, val), threads_of(config, accelerator)
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
    configs = {f.__name__: ((f.__doc__ or "").splitlines()[0], f()) for f in (demo, ppma, as_released)}
    return tyro.extras.overridable_config_cli(configs, prog="mixed.py", args=list(arguments))


if __name__ == "__main__":
    with told_in_one_line("mixed"):
        main(command_line(sys.argv[1:]))

"""Transfer of pre-trained encoders to downstream corpora:

    accelerate launch recipes/transfer.py --checkpoint RUN/stage2 --corpora DATA/ucf101

where DATA/ucf101-train and DATA/ucf101-val are corpora that `understudy pack` made.

Fine-tuning, linear probes, attentive probe, the adaptive average of two checkpoints; accuracies with intervals in
OUT/results.json. A config is a function below; every value can be set on the command line (`transfer.py demo --help`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, Literal

import torch
import tyro
from accelerate import Accelerator

from understudy.loader import Clip, EvalViews, Views
from understudy.loader.order import check_layout, default_lanes
from understudy.models.attentive import AttentiveConfig, AttentiveProbe
from understudy.models.augment import Augment
from understudy.models.classify import VideoClassifier
from understudy.models.probe import ProbeConfig
from understudy.models.vit import BASE, DEMO, ViTConfig
from understudy.recipes.check import check_held_out, check_mixing, check_probe
from understudy.recipes.configs import summary
from understudy.recipes.entries import SCRATCH, Model, Task, describe_views, machine, open_model, open_task
from understudy.recipes.features import cache_name, encoder_key, frozen_features, view_count, weights_digest
from understudy.recipes.finetune import (
    AverageConfig,
    FinetuneConfig,
    Finetuned,
    TaskConfig,
    finetune,
    learn_average,
    online_probe,
)
from understudy.recipes.outcome import Outcome, check_excluded, differences_of, rows_of
from understudy.recipes.predictions import write_predictions, write_results
from understudy.recipes.probing import kept_scores, probe_attentively, probe_linearly
from understudy.recipes.start import make_accelerator, threads_of, told_in_one_line
from understudy.recipes.table import results_table
from understudy.shards.demo import make_demo
from understudy.shards.errors import UserError
from understudy.shards.machine import usable_cores

Protocol = Literal["linear", "attentive", "finetune", "online"]
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@dataclass(frozen=True)
class TransferConfig:
    """Everything that a table of transfer depends on."""

    vit: ViTConfig
    """Shape of `scratch`; a checkpoint brings its own."""
    stride: int
    """Stored frames from one frame of a clip to the next."""
    checkpoint: tuple[str, ...] = (SCRATCH,)
    """Encoders, each [NAME=]PATH: a stage of a run, a folder of save_pretrained, VideoMAE's weights in timm's or
    transformers' form; or the word scratch. Differences are to the first.
    """
    average: tuple[str, ...] = ()
    """Two checkpoints whose adaptive average is evaluated as one more model, and with its own head as one more row."""
    corpora: tuple[str, ...] = ()
    """Downstream corpora, each [NAME=]PREFIX: corpora/ucf101 means corpora/ucf101-train and corpora/ucf101-val; by
    default the demo's."""
    protocols: tuple[Protocol, ...] = ("linear", "attentive", "finetune")
    """Protocols to run; online, PPMA's linear probe on augmented clips, only if it is named."""
    train_views: EvalViews = field(default_factory=EvalViews)
    """Views of a training video that probes see."""
    val_views: EvalViews = field(default_factory=lambda: EvalViews(clips=2, crops=3))
    """Views of a validation video, whose logits are averaged."""
    probe: ProbeConfig = field(default_factory=lambda: ProbeConfig(rates=RATES))
    attentive: AttentiveConfig = field(default_factory=AttentiveConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    online: FinetuneConfig = field(default_factory=online_probe)
    """PPMA's linear probe: the head alone, on a frozen trunk, of clips augmented as in fine-tuning."""
    averaging: AverageConfig = field(default_factory=AverageConfig)
    exclude: tuple[str, ...] = ()
    """Keys of validation samples to leave out. Others that can't be decoded count as wrong."""
    out: Path = Path("runs/transfer")
    """Folder for features, fine-tuned models and results; what is in it already is not done again."""
    threads: int = 0
    """Decoding threads of each process; 0 means its share of the cores."""
    precision: Literal["auto", "bf16", "no"] = "auto"
    """auto: bf16 on GPUs and CPUs that compute in it, else float32, which `no` is everywhere."""


def demo() -> TransferConfig:
    """The demo's actions on two CPU cores, without augmentation: `accelerate launch recipes/transfer.py`; minutes per
    checkpoint.
    """
    return TransferConfig(
        vit=DEMO,
        stride=2,
        val_views=EvalViews(clips=2, crops=1),
        # As large as the usual one, the probe would cost more than the encoder did.
        attentive=AttentiveConfig(blocks=2, heads=4, epochs=10, rates=(1e-3,)),
        finetune=FinetuneConfig(
            epochs=8,
            warmup_epochs=1,
            rate=1e-3,
            weight_decay=0.05,
            crop_scale=(0.5, 1.0),
            augment=Augment(),
            flip=True,
        ),
        online=replace(online_probe(), epochs=8, warmup_epochs=1, crop_scale=(0.5, 1.0), augment=Augment(), flip=True),
        averaging=AverageConfig(epochs=10, crop_scale=(0.5, 1.0), augment=Augment(), flip=True),
    )


def ppma() -> TransferConfig:
    """The paper's protocol, 2 clips x 3 crops: `accelerate launch recipes/transfer.py ppma --checkpoint RUN/stage2
    --corpora DATA/ucf101 DATA/hmdb51`. By arithmetic 20 minutes of fine-tuning per seed on UCF101 on one H200, not run.
    """
    return TransferConfig(vit=BASE, stride=1)


def main(config: TransferConfig) -> dict[str, Any]:
    """Run all protocols on all models and tasks; returns what is written to `results.json`."""
    accelerator = make_accelerator(config)
    if accelerator.is_main_process and not config.corpora:
        make_demo(config.out / "corpora", workers=usable_cores())
    accelerator.wait_for_everyone()
    tasks = [open_task(prefix) for prefix in config.corpora or (str(config.out / "corpora" / "demo-actions"),)]
    check_excluded(config.exclude, [task.val for task in tasks])
    models = [open_model(argument, config.vit) for argument in config.checkpoint]
    parts = [open_model(argument, config.vit) for argument in config.average]
    if len(parts) not in (0, 2):
        raise UserError(f"--average takes two checkpoints, not {len(parts)}")
    if len({model.name for model in models}) < len(models):
        raise UserError("two checkpoints have the same name; tell them apart with NAME=PATH")
    if len({task.name for task in tasks}) < len(tasks):
        raise UserError("two corpora have the same name; tell them apart with NAME=PREFIX")
    check(config, [*models, *parts], tasks, accelerator.num_processes)

    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "threads")}
    results: dict[str, Any] = {"machine": machine(accelerator), "config": settings, "rows": [], "differences": []}
    results["weights"] = [model.about["digest"] for model in (*models, *parts)]
    results["corpora"] = [[task.train.manifest.digest, task.val.manifest.digest] for task in tasks]
    for task in tasks:
        entries, joint = list(models), list[Outcome]()
        if parts:
            average, outcome = average_of(accelerator, parts, task, config)
            entries.append(average)
            joint.append(outcome)
        outcomes: list[Outcome] = []
        for protocol in config.protocols:
            for model in entries:
                started = time.perf_counter()
                outcomes.append(run(accelerator, model, task, protocol, config))
                accelerator.print(f"{task.name}, {protocol}, {model.name}: {time.perf_counter() - started:.1f} s")
        outcomes += joint
        rows = rows_of(outcomes, task.val, config.exclude)
        if accelerator.is_main_process:
            for row, outcome in zip(rows, outcomes):
                row["predictions"] = write_predictions(config.out, row, outcome, task.val)
        results["rows"] += rows
        results["differences"] += differences_of(outcomes, task.val, config.exclude)
        if accelerator.is_main_process:  # after each task, so that a long table is there as far as it got
            write_results(config.out, results)
    if accelerator.is_main_process:
        print(results_table(results))
    accelerator.end_training()
    return results


def check(config: TransferConfig, models: Sequence[Model], tasks: Sequence[Task], ranks: int) -> None:
    """Raise UserError for settings that some protocol would refuse only after hours of work on others."""
    if "linear" in config.protocols:
        check_probe(config.probe, "--probe")
    if "attentive" in config.protocols:
        check_probe(config.attentive, "--attentive")
    for task in tasks:
        for protocol, settings in (("linear", config.probe), ("attentive", config.attentive)):
            if protocol in config.protocols:
                check_held_out(settings, task.train)
    for model in models:
        try:
            with torch.device("meta"):
                if "attentive" in config.protocols:
                    AttentiveProbe(model.encoder.config.width, 1, config.attentive)
                if "finetune" in config.protocols:
                    VideoClassifier(model.encoder.config, 1, config.finetune.drop_path)
        except ValueError as error:
            raise UserError(f"{model.name}: {error}") from None
    if len({model.encoder.config for model in models[len(config.checkpoint) :]}) > 1:
        raise UserError(f"--average {' '.join(config.average)}: encoders of different shapes can't be averaged")
    tuned = {"finetune": config.finetune, "online": config.online}
    trained: dict[str, TaskConfig] = {f"--{name}": tuned[name] for name in tuned if name in config.protocols}
    for flag, settings in {**trained, **({"--averaging": config.averaging} if config.average else {})}.items():
        if settings.epochs <= 0 or settings.batch_size < 1 or settings.batch_size % ranks:
            raise UserError(
                f"{flag} needs epochs above 0 and a batch that {ranks} ranks divide, "
                f"not {settings.epochs} and {settings.batch_size}"
            )
        if not 0 <= settings.smoothing <= 1 or not 0 <= settings.drop_path < 1:
            raise UserError(
                f"{flag} needs smoothing from 0 to 1 and drop path from 0 to under 1, "
                f"not {settings.smoothing} and {settings.drop_path}"
            )
        check_layout(settings.batch_size, default_lanes(settings.batch_size), ranks)
        Views(1, scale=settings.crop_scale, flip=settings.flip)
        check_mixing(settings.augment, flag, settings.batch_size, 1, ranks)
        for task in tasks:
            settings.stage(len(task.train))
        if isinstance(settings, FinetuneConfig) and settings.seeds < 1:
            raise UserError(f"{flag}.seeds {settings.seeds}: at least 1 is needed")


def run(accelerator: Accelerator, model: Model, task: Task, protocol: Protocol, config: TransferConfig) -> Outcome:
    """One model on one task under one protocol, all its seeds."""
    threads = threads_of(config)
    clip = clip_of(model.encoder.config, config)
    about = {**model.about, "task_digest": task.val.manifest.digest, "val_views": describe_views(config.val_views)}
    if protocol in ("finetune", "online"):
        frozen = protocol == "online"
        settings = config.online if frozen else config.finetune
        train_and_score = partial(finetune, accelerator, model, task.train, task.val, clip, config.val_views)
        runs = [
            train_and_score(settings, seed=seed, out=config.out, threads=threads, frozen=frozen)
            for seed in range(settings.seeds)
        ]
        return outcome_of(model.name, task, protocol, runs, config.out, {**about, "rate": settings.rate})

    extract = partial(
        frozen_features,
        accelerator,
        model.encoder,
        clip=clip,
        level="pooled" if protocol == "linear" else "tokens",
        threads=threads,
        cache=config.out / "features",
    )
    train = extract(task.train, views=config.train_views)
    val = extract(task.val, views=config.val_views)
    if protocol == "linear":
        settings, probe = config.probe, partial(probe_linearly, config=config.probe)
    else:
        settings, probe = config.attentive, partial(probe_attentively, config=config.attentive)
    decided = {**encoder_key(model.encoder), "clip": asdict(clip), "precision": accelerator.mixed_precision}
    decided |= {"train": task.train.manifest.digest, "train_views": asdict(config.train_views)}
    decided |= {"val": task.val.manifest.digest, "val_views": asdict(config.val_views), "config": asdict(settings)}
    file = config.out / "probes" / f"{cache_name(protocol, task.train, decided)}.safetensors"
    scores = kept_scores(
        file,
        accelerator.is_main_process,
        lambda: probe(train, val, task.train, device=accelerator.device),
    )
    about |= {"scores": [str(file.relative_to(config.out))]}
    about |= {"rate": scores.rate, "tuning": scores.tuning, "train_views": describe_views(config.train_views)}
    about |= {"train_failed": int((~train.ok).sum()), "probe_seconds": scores.seconds}
    about |= {"feature_seconds": train.seconds + val.seconds, "feature_views": view_count(train) + view_count(val)}
    return Outcome(model.name, task.name, protocol, scores.logits, val.ok, about)


def outcome_of(
    name: str, task: Task, protocol: str, runs: Sequence[Finetuned], out: Path, about: dict[str, Any]
) -> Outcome:
    """What came of a model that was trained with each seed, its speeds over all of them."""
    seconds = sum(run.report.seconds for run in runs)
    about = {**about, "steps": runs[0].report.steps}
    about |= {"train_samples_per_second": sum(run.report.samples for run in runs) / seconds}
    about |= {"data_share": sum(run.report.data_seconds for run in runs) / seconds}
    about |= {"eval_views_per_second": harmonic_mean(run.views_per_second for run in runs)}
    about |= {"scores": [str(run.scores.relative_to(out)) for run in runs]}
    return Outcome(name, task.name, protocol, torch.stack([run.logits for run in runs]), runs[0].ok, about)


def average_of(
    accelerator: Accelerator, parts: Sequence[Model], task: Task, config: TransferConfig
) -> tuple[Model, Outcome]:
    """The adaptive average of two encoders for a task, as a model like the others, and what came of it with the head
    that was learned with it, which is what PPMA scores.
    """
    clip = clip_of(parts[0].encoder.config, config)
    learned = learn_average(
        *(accelerator, (parts[0], parts[1]), task.train, task.val, clip, config.val_views, config.averaging),
        *(config.out, threads_of(config)),
    )
    about = {"digest": weights_digest(learned.encoder), "average_of": [part.about for part in parts]}
    about |= {key: [one for part in parts for one in part.about[key]] for key in ("trained_on", "unknown")}
    about |= {"shares": list(learned.shares)}
    model = Model("adaptive average", learned.encoder, about)
    told = {**about, "task_digest": task.val.manifest.digest, "val_views": describe_views(config.val_views)}
    told |= {"rate": config.averaging.rate}
    return model, outcome_of(model.name, task, "joint", [learned.joint], config.out, told)


def clip_of(vit: ViTConfig, config: TransferConfig) -> Clip:
    """What the loader cuts: as many frames, as large, as the encoder takes."""
    return Clip(frames=vit.frames, stride=config.stride, size=vit.size)


def command_line(arguments: Sequence[str]) -> TransferConfig:
    """`[demo | ppma] [--key value ...]`; no config name means demo, an unknown key is an error."""
    if not arguments or (arguments[0].startswith("--") and arguments[0] != "--help"):
        arguments = ["demo", *arguments]
    configs = {f.__name__: (summary(f), f()) for f in (demo, ppma)}
    return tyro.extras.overridable_config_cli(
        configs, prog="transfer.py", description="Without a config name, demo is used.", args=list(arguments)
    )


if __name__ == "__main__":
    with told_in_one_line("transfer"):
        main(command_line(sys.argv[1:]))

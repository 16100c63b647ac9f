"""PPMA pre-training on mixed sources, then a linear probe on actions never seen: `accelerate launch recipes/mixed.py`.

Stage 1 is masked autoencoding on videos without humans, stage 2 aligns with their labels and those of synthetic
humans. A config is a function below; every value can be set on the command line (`mixed.py demo --help`).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.loader import Batch, Clip, ClipLoader, EvalViews, LoaderSource, Views
from understudy.models.align import Aligner
from understudy.models.mae import MAEConfig, MaskedAutoencoder, random_mask
from understudy.models.probe import ProbeConfig
from understudy.models.vit import BASE, DEMO, VideoViT, ViTConfig
from understudy.recipes.evaluate import Accuracy, probe_encoder, results_rows, results_table
from understudy.recipes.train import ENCODER, Stage, StageReport, step_seed, train_stage
from understudy.shards.demo import make_demo
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.manifest import Corpus


@dataclass(frozen=True)
class MixedConfig:
    """Everything the main job depends on. Corpora are what `understudy pack` made: folders, or addresses such as
    s3://bucket/prefix and https://host/path; where none is named, the demo corpora are made under OUT/corpora.
    """

    vit: ViTConfig
    mae: MAEConfig
    stage1: Stage
    stage2: Stage
    stride: int
    """Stored frames from one frame of a clip to the next."""
    mae_corpora: tuple[str, ...] = ()
    """Corpora of stage 1."""
    align_corpora: tuple[str, ...] = ()
    """Corpora of stage 2."""
    probe_train: str | None = None
    """Corpus that the linear probe is trained on."""
    probe_val: str | None = None
    """Corpus that it is tested on."""
    mae_weights: tuple[float, ...] = ()
    """Share of steps for each corpus of stage 1; by default its share of the samples."""
    align_weights: tuple[float, ...] = ()
    """The same for stage 2."""
    allow_kinds: tuple[str, ...] = ("no-human", "synthetic")
    """Kinds of corpora that may be trained on before the probe."""
    shared_head: bool = False
    """One head for all corpora in stage 2, label ids colliding as in PPMA's released configuration."""
    drop_path: float = 0.0
    """Stochastic depth in stage 2."""
    smoothing: float = 0.1
    """Label smoothing in stage 2."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    probe_views: EvalViews = field(default_factory=EvalViews)
    ablate: bool = False
    """Add rows for masked autoencoding alone and for alignment alone."""
    out: Path = Path("runs/mixed")
    """Where everything goes; the same command goes on with what is there."""
    demo_clips: int = 1000
    """Clips in each demo pre-training corpus, where the demo corpora are made."""
    seed: int = 0
    threads: int = 0
    """Decoding threads of each process; 0 means its share of the cores."""
    precision: str = "auto"
    """bf16 | no | auto: bf16 on GPUs and on CPUs that compute in it."""
    compile: bool = False
    """torch.compile the models (on CPU this needs a C++ compiler)."""
    log_every: int = 20
    save_every: int = 100


def demo() -> MixedConfig:
    """Demo corpora on two CPU cores: `accelerate launch recipes/mixed.py`, under 6 minutes, corpora included."""
    return MixedConfig(
        vit=DEMO,
        mae=MAEConfig(decoder_width=64, decoder_depth=2, decoder_heads=1),
        stage1=Stage(
            steps=200,
            batch_size=64,
            views=2,
            rate=1e-3,
            warmup=20,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            crop_scale=(0.5, 1.0),
            flip=True,
        ),
        stage2=Stage(
            steps=800,
            batch_size=48,
            views=1,
            rate=1.5e-3,
            warmup=80,
            weight_decay=0.05,
            crop_scale=(0.5, 1.0),
            flip=True,
        ),
        align_weights=(1.0, 2.0),
        stride=2,
    )


def ppma() -> MixedConfig:
    """The paper's schedule (batch 128; 200 epochs of 700 steps, 50 epochs of 1,650) on corpora that you name:
    `accelerate launch recipes/mixed.py ppma --mae-corpora NH --align-corpora NH SYN --probe-train T --probe-val V`.
    By arithmetic 3 h (stage 1) and 9 h (stage 2) on one H200 at 30-40 % of its peak; not run yet.
    """
    return MixedConfig(
        vit=BASE,
        mae=MAEConfig(),
        stage1=Stage(
            steps=140_000, batch_size=128, views=4, rate=8e-4, warmup=7_000, weight_decay=0.05, betas=(0.9, 0.95)
        ),
        stage2=Stage(
            steps=82_500, batch_size=128, views=1, rate=2e-3, warmup=10_312, weight_decay=1e-4, layer_decay=0.75
        ),
        stride=1,
        drop_path=0.1,
        probe_views=EvalViews(clips=2, crops=3),
        log_every=100,
        save_every=1_000,
    )


def main(config: MixedConfig) -> list[dict[str, Any]]:
    """Run the job; returns the rows of `results.json`."""
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        claim_output(config)
        if not config.mae_corpora:
            make_demo(
                config.out / "corpora", clips=config.demo_clips, seed=config.seed, workers=len(os.sched_getaffinity(0))
            )
    accelerator.wait_for_everyone()
    corpora = open_corpora(config)

    # Stage 1: reconstruct what is masked, on videos without humans.
    torch.manual_seed(step_seed(config.seed, "init"))
    autoencoder = MaskedAutoencoder(config.vit, config.mae)
    scratch = {name: tensor.clone() for name, tensor in autoencoder.encoder.state_dict().items()}
    stage1 = run_stage(accelerator, "stage1", autoencoder, corpora["mae"], config.mae_weights, config.stage1, config)
    reconstructed = load_file(config.out / "stage1" / ENCODER)

    # Stage 2: name what happens, on videos without humans and on synthetic humans, one corpus a batch.
    classes = {corpus.manifest.name: len(corpus.manifest.classes) for corpus in corpora["align"]}

    def align(name: str, start: dict[str, Tensor]) -> StageReport:
        torch.manual_seed(step_seed(config.seed, "init-align"))
        aligner = Aligner(config.vit, classes, drop_path=config.drop_path, shared_head=config.shared_head)
        aligner.load_encoder(start)
        return run_stage(accelerator, name, aligner, corpora["align"], config.align_weights, config.stage2, config)

    stage2 = align("stage2", reconstructed)
    aligned = load_file(config.out / "stage2" / ENCODER)
    encoders = [("scratch", scratch, ()), ("PPMA", aligned, (stage1, stage2))]
    if config.ablate:
        stage2_only = align("stage2-only", scratch)
        aligned_only = load_file(config.out / "stage2-only" / ENCODER)
        encoders += [("MAE only", reconstructed, (stage1,)), ("alignment only", aligned_only, (stage2_only,))]

    # Probe: a linear classifier on frozen features, actions that pre-training never saw.
    accuracies: list[tuple[Accuracy, tuple[StageReport, ...]]] = []
    for name, weights, reports in encoders:
        encoder = VideoViT(config.vit)
        encoder.load_state_dict(weights)
        accuracy = probe_encoder(
            accelerator,
            name,
            encoder,
            corpora["probe"][0],
            corpora["probe"][1],
            clip_of(config),
            config.probe_views,
            config.probe,
            threads=threads_of(config, accelerator),
        )
        accuracies.append((accuracy, reports))
    rows = results_rows(accuracies, task=corpora["probe"][1].manifest.name)
    if accelerator.is_main_process:
        write_atomic(config.out / "results.json", (json.dumps(rows, indent=1) + "\n").encode())
        print(results_table(rows))
    accelerator.end_training()
    return rows


def run_stage(
    accelerator: Accelerator,
    name: str,
    module: MaskedAutoencoder | Aligner,
    corpora: Sequence[Corpus],
    weights: Sequence[float],
    stage: Stage,
    config: MixedConfig,
) -> StageReport:
    """Train one stage on a mix of corpora, every batch from one of them."""
    if weights and len(weights) != len(corpora):
        raise UserError(f"{name}: {len(weights)} weights for {len(corpora)} corpora; name one for each, or none")
    shares = weights or [len(corpus) for corpus in corpora]

    def loss_of(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        if isinstance(module, Aligner):
            return model(batch.clips, batch.labels, batch.ok, batch.source, config.smoothing)
        # Masks are drawn for the global batch, so that they do not depend on the number of ranks.
        rows = len(batch.clips)
        first = accelerator.process_index * rows
        drawn = random_mask(stage.batch_size, config.vit.tokens, config.mae.mask_ratio, generator)
        visible, masked = (index[first : first + rows] for index in drawn)
        return model(batch.clips, visible, masked, batch.ok)

    with ClipLoader(
        [LoaderSource(corpus, share) for corpus, share in zip(corpora, shares)],
        clip_of(config),
        Views(count=stage.views, scale=stage.crop_scale, flip=stage.flip),
        batch_size=stage.batch_size,
        seed=step_seed(config.seed, name),
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        threads=threads_of(config, accelerator),
    ) as loader:
        return train_stage(
            accelerator,
            name,
            module,
            loader,
            stage,
            loss_of,
            config.out,
            depth=config.vit.depth,
            seed=config.seed,
            log_every=config.log_every,
            save_every=config.save_every,
            compiled=config.compile,
        )


def clip_of(config: MixedConfig) -> Clip:
    """What the loader cuts: as many frames, as large, as the encoder takes."""
    return Clip(frames=config.vit.frames, stride=config.stride, size=config.vit.size)


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def threads_of(config: MixedConfig, accelerator: Accelerator) -> int:
    """Decoding threads of this process."""
    return config.threads or max(1, cores() // accelerator.num_processes)


def open_corpora(config: MixedConfig) -> dict[str, list[Corpus]]:
    """Open the corpora by use, refusing kinds that the config does not allow in pre-training."""
    demo_corpora = config.out / "corpora"
    named = {
        "mae": config.mae_corpora or (demo_corpora / "demo-nohuman",),
        "align": config.align_corpora or (demo_corpora / "demo-nohuman", demo_corpora / "demo-synthetic"),
        "probe": (
            config.probe_train or demo_corpora / "demo-actions-train",
            config.probe_val or demo_corpora / "demo-actions-val",
        ),
    }
    corpora = {use: [Corpus.open(path) for path in paths] for use, paths in named.items()}
    for corpus in corpora["mae"] + corpora["align"]:
        if corpus.manifest.kind not in config.allow_kinds:
            raise UserError(
                f"{corpus.root}: of kind {corpus.manifest.kind}, but only {', '.join(config.allow_kinds)} may be "
                f"trained on; add --allow-kinds {' '.join((*config.allow_kinds, corpus.manifest.kind))} to go on"
            )
    if corpora["probe"][0].manifest.classes != corpora["probe"][1].manifest.classes:
        raise UserError(
            f"{named['probe'][0]} and {named['probe'][1]}: their class lists differ; pack both with one list"
        )
    return corpora


def make_accelerator(config: MixedConfig) -> Accelerator:
    """Accelerate with the precision that the device computes well in."""
    precision = config.precision
    if precision == "auto":
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        precision = "bf16" if torch.cuda.is_available() or "amx_bf16" in flags or "avx512_bf16" in flags else "no"
    # A batch comes from one corpus, so the other corpora's heads get no gradient in that step, on any rank.
    unused_heads = DistributedDataParallelKwargs(find_unused_parameters=not config.shared_head)
    # Without cpu=True, ranks on a machine with no GPU would each run alone, without a word.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision, kwargs_handlers=[unused_heads])


def claim_output(config: MixedConfig) -> None:
    """Write the config into the output folder, or check that the one there is the same."""
    free = ("ablate", "out", "threads", "log_every", "save_every")  # these change nothing that is trained
    text = json.dumps({k: v for k, v in asdict(config).items() if k not in free}, indent=1, default=str) + "\n"
    path = config.out / "config.json"
    if not path.exists():
        config.out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    elif path.read_text() != text:
        raise UserError(f"{config.out}: holds a run with other settings ({path} says which); choose another --out")


def command_line(arguments: Sequence[str]) -> MixedConfig:
    """`[demo | ppma] [--key value ...]`; no config name means demo, an unknown key is an error."""
    if not arguments or (arguments[0].startswith("--") and arguments[0] != "--help"):
        arguments = ["demo", *arguments]
    configs = {f.__name__: ((f.__doc__ or "").splitlines()[0], f()) for f in (demo, ppma)}
    return tyro.extras.overridable_config_cli(configs, prog="mixed.py", args=list(arguments))


if __name__ == "__main__":
    try:
        main(command_line(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"mixed: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit("mixed: no space left on the disk; make room and run the same command again, it goes on where it was")

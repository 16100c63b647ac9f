"""The main job's config and the runs that have a name: `demo`, the paper's `ppma`, `as_released` with its faults.

A config is a function; every value of it can be set on the command line (`mixed.py demo --help`). Where each number
comes from is in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from understudy.loader import EvalViews
from understudy.models.augment import Augment
from understudy.models.mae import MAEConfig
from understudy.models.probe import ProbeConfig
from understudy.models.vit import BASE, DEMO, ViTConfig
from understudy.recipes.stage import Stage
from understudy.shards.errors import UserError

DEMO_WEIGHTS = (1.0, 2.0)  # of the demo's scenes without people and its virtual people in stage 2


def summary(config: Callable[[], object]) -> str:
    """What the docstring of a config says of it, in one line."""
    return " ".join((config.__doc__ or "").split())


@dataclass(frozen=True)
class MixedConfig:
    """Everything the main job depends on. Corpora are what `understudy pack` made: folders, or addresses such as
    s3://bucket/prefix and https://host/path. Name the corpora of each stage that is run; name both of the probe's or
    neither. `demo` makes its own under OUT/corpora if none is named.
    """

    vit: ViTConfig
    mae: MAEConfig
    stage1: Stage
    stage2: Stage
    stride: int
    """Stored frames from one frame of a clip to the next."""
    mae_corpora: tuple[str, ...] = ()
    """Corpora of stage 1. The corpora of a stage need different names."""
    align_corpora: tuple[str, ...] = ()
    """Corpora of stage 2."""
    probe_train: str | None = None
    """Corpus that the linear probe is trained on."""
    probe_val: str | None = None
    """Corpus that it is tested on."""
    start: str | None = None
    """Encoder that stage 2 starts from, without stage 1: any checkpoint that transfer.py takes, or the word scratch."""
    stages: Literal["both", "stage1"] = "both"
    """stage1: masked autoencoding alone. The same command without it continues with stage 2."""
    mae_weights: tuple[float, ...] = ()
    """Share of steps for each corpus of stage 1; by default its share of the samples."""
    align_weights: tuple[float, ...] = ()
    """The same for stage 2."""
    allow_kinds: tuple[str, ...] = ("no-human", "synthetic")
    """Kinds of corpora that may be trained on before the probe."""
    require_audit: float | None = None
    """Largest upper bound, by a corpus's audit, of the share of frames that show somebody; None asks for no audit."""
    allow_changed_corpora: bool = False
    """Resume a run although a corpus was packed again; the ledger has the step until which the old one was used."""
    shared_head: bool = False
    """One head for all corpora in stage 2, label ids colliding as in PPMA's released configuration."""
    fresh_norm: bool = False
    """Stage 2 starts with a new last norm instead of stage 1's, as in PPMA's released code."""
    drop_path: float = 0.0
    """Stochastic depth in stage 2."""
    smoothing: float = 0.1
    """Label smoothing in stage 2."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    probe_views: EvalViews = field(default_factory=EvalViews)
    ablate: bool = False
    """Add rows for masked autoencoding alone and for alignment alone."""
    out: Path = Path("runs/mixed")
    """Run folder for everything; the same command resumes the run in it."""
    demo_clips: int = 0
    """Clips in each demo pre-training corpus, generated if no corpus is named; 0: corpora must be named."""
    seed: int = 0
    """Seed of initial weights, sample order, crops, masks and augmentation."""
    decoder: Literal["auto", "native", "plain", "dali", "reference"] = "auto"
    """What turns shards into clips in both stages; the probe takes auto."""
    lanes: int = 0
    """Parallel read streams; the number of ranks must divide it. Changing it changes the sample order.
    0: automatic, the largest divisor up to 64 of a step's samples."""
    threads: int = 0
    """Decoding threads of each process; 0 means its share of the cores."""
    precision: Literal["auto", "bf16", "no"] = "auto"
    """auto: bf16 on GPUs and CPUs that compute in it, else float32, which `no` is everywhere."""
    compile: bool = False
    """torch.compile the models (on CPU this needs a C++ compiler)."""
    track: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Dashboard that also gets the numbers of metrics.jsonl, with files below OUT; each is a package to install."""
    checkpoint_activations: bool = False
    """Keep only what goes into each transformer block, and compute the rest again for the gradients: less memory for a
    third more arithmetic, the same results.
    """
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    save_every: int = 100
    """Steps between checkpoints, a multiple of --log-every; a killed run repeats at most so many."""

    def __post_init__(self) -> None:
        """Refuse parts that don't fit each other."""
        if self.mae.decode_share < 1 and (self.vit.grid[1] % 2 or self.vit.grid[2] % 2):
            raise UserError(
                f"--mae.decode-share 0.5 keeps two of every 2 x 2 tubes, and {self.vit.grid[1]} x {self.vit.grid[2]} "
                "of them don't divide so; change --vit.size or --vit.patch"
            )


def demo() -> MixedConfig:
    """Demo corpora on two CPU cores: `accelerate launch recipes/mixed.py`, four minutes on fast ones, twice that on
    slow ones, corpora included.
    """
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
        stride=2,
        demo_clips=1000,
    )


def ppma() -> MixedConfig:
    """The paper's recipe (ViT-B, 16 x 224 x 224, batch 128) on corpora that you name, packed at 6 frames/s:
    `accelerate launch recipes/mixed.py ppma --mae-corpora NH --align-corpora NH SYN --probe-train T --probe-val V`.
    By arithmetic 3 h (stage 1) and 9 h (stage 2) on one H200 at 30-40 % of its peak; not run yet. The paper's linear
    probe is 88.4 % on UCF101 and 64.9 % on HMDB51, trained with heavy augmentation: `transfer.py --protocols online`.
    """
    return MixedConfig(
        vit=BASE,
        mae=MAEConfig(),
        stage1=Stage(
            steps=140_000,  # 200 epochs of 700: 89,665 videos, each seen 4 times in a quarter of the epochs
            batch_size=128,  # of 32 videos
            views=4,
            rate=8e-4,
            warmup=7_000,  # 10 epochs
            weight_decay=0.05,
            betas=(0.9, 0.95),
            start=5e-7,
        ),
        stage2=Stage(
            steps=82_500,  # 50 epochs of 700 (no-human) + about 950 (synthetic)
            batch_size=128,
            views=1,
            rate=2e-3,
            warmup=10_312,  # 6.25 epochs
            weight_decay=1e-4,
            layer_decay=0.75,
            start=5e-7,
            end=5e-7,
            augment=Augment(
                operations=4, magnitude=7.0, probability=0.5, erasing=0.25, mixup=0.8, cutmix=1.0, group=16
            ),
        ),
        stride=1,  # 16 frames at 6 frames/s span 2.5 s; the paper's 2.66 s, as corpora packed with --fps 5.65
        drop_path=0.1,
        smoothing=0.1,
        probe_views=EvalViews(clips=2, crops=3),
        log_every=100,
        save_every=1_000,
    )


def as_released() -> MixedConfig:
    """`ppma` with four faults of PPMA's released code: the rate halves when warm-up ends, both corpora share one head
    in which their label ids collide, stage 2 starts with a new last norm, and test clips end before the video does
    (PyTorchVideo 0.1.5). Command, hardware and time are `ppma`'s; use it to measure what these faults cost.
    """
    paper = ppma()
    return replace(
        paper,
        stage1=replace(paper.stage1, halved="whole"),
        stage2=replace(paper.stage2, halved="rest"),
        shared_head=True,
        fresh_norm=True,
        probe_views=replace(paper.probe_views, starts="released"),
    )

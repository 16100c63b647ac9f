"""Training on a downstream corpus, clips augmented anew each time: full fine-tuning, a head alone, an adaptive average.

Each is a stage of `train.py`: resumed after a kill, the same on any number of ranks, stopped by a loss that is NaN.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.loader import Batch, Clip, ClipLoader, EvalViews, LoaderSource, Views
from understudy.models.align import mixed_cross_entropy
from understudy.models.augment import Augment, augment_batch
from understudy.models.average import AdaptiveAverage, Mixing
from understudy.models.classify import VideoClassifier
from understudy.models.optim import Halved
from understudy.models.vit import VideoViT
from understudy.models.whole import MODEL, classifier_header
from understudy.recipes.checkpoint import save_tensors
from understudy.recipes.entries import Model
from understudy.recipes.features import cache_name, encoder_key, one_pass
from understudy.recipes.provenance import write_origin
from understudy.recipes.stage import Stage, StageReport
from understudy.recipes.train import ENCODER, step_seed, train_stage
from understudy.shards.corpus import Corpus


@dataclass(frozen=True)
class TaskConfig:
    """What PPMA's released code has in common for all that it trains on a downstream corpus: batch 32, 30 epochs, a
    layer decay of 0.75, drop path 0.1, label smoothing 0.1, RandAugment, erasing, mixup and CutMix, no mirroring.
    """

    epochs: float = 30
    """Passes over the training videos."""
    batch_size: int = 32
    """Clips per step over all ranks."""
    rate: float = 2e-3
    """Peak learning rate."""
    end: float = 5e-7
    """Rate that the cosine ends at."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    layer_decay: float = 0.75
    """Factor of the rate from each layer to the one before it."""
    drop_path: float = 0.1
    """Stochastic depth."""
    smoothing: float = 0.1
    """Label smoothing."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the frame's area in a crop."""
    flip: bool = False
    """Mirror half of the clips."""
    augment: Augment = field(
        default_factory=lambda: Augment(operations=4, erasing=0.25, mixup=0.8, cutmix=1.0, group=8)
    )

    def stage(self, videos: int) -> Stage:
        """The schedule for a corpus of so many videos."""
        return Stage(
            steps=max(1, round(self.epochs * videos / self.batch_size)),
            batch_size=self.batch_size,
            views=1,
            rate=self.rate,
            end=self.end,
            warmup=0,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            crop_scale=self.crop_scale,
            flip=self.flip,
            augment=self.augment,
        )


@dataclass(frozen=True)
class FinetuneConfig(TaskConfig):
    """PPMA's fine-tuning, of its released code: of 30 epochs 3.75 warm up, rate from 5e-7 to 2e-3 and back, and the
    rest as all that it trains there. `start`, `end` and `halved` are those of Stage.
    """

    warmup_epochs: float = 3.75
    """Epochs over which the rate rises to its peak."""
    start: float = 5e-7
    """Rate of the first step."""
    halved: Halved = "no"
    """The rate halves when warm-up ends: rest, as in the released PPMA code; whole, as in its masked autoencoding."""
    seeds: int = 3
    """Runs that differ in seed."""

    def stage(self, videos: int) -> Stage:
        """The schedule for a corpus of so many videos."""
        flat = super().stage(videos)
        warmup = round(flat.steps * self.warmup_epochs / self.epochs)
        return replace(flat, warmup=warmup, start=self.start, halved=self.halved)


def online_probe() -> FinetuneConfig:
    """PPMA's linear probe, of its released code: the head alone, on a frozen trunk, with all of fine-tuning's
    augmentation; rate 4e-6 to 1.6e-2 and back, of which the head gets 0.75 as in fine-tuning. There the trunk drops
    paths meanwhile, which `drop_path` 0.1 does here.
    """
    return FinetuneConfig(rate=1.6e-2, start=4e-6, end=4e-6, drop_path=0.0)


@dataclass(frozen=True)
class AverageConfig(TaskConfig):
    """Learning the mixture of two encoders with a linear head, as PPMA's released code: one number a model, rate 1.6e-2
    to 4e-6 without warm-up, of which mixture and head get 0.75, and the rest as all that it trains there.
    """

    mixing: Mixing = "model"
    """model: one mixture for all weights; tensor: one per parameter tensor."""
    rate: float = 1.6e-2
    """Peak learning rate."""
    end: float = 4e-6
    """Rate that the cosine ends at."""


class AverageClassifier(nn.Module):
    """Logits from an adaptive average and a linear head; all that is trained is the mixture and the head."""

    def __init__(self, encoder: AdaptiveAverage, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.width, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (N, classes) of clips (N, 3, T, H, W)."""
        return self.head(self.encoder(clips))


@dataclass(frozen=True)
class Finetuned:
    """Scores of a fine-tuned model: `logits` float32 (videos, classes), averaged over views, and `ok` (videos,); what
    training says of itself, the views of the validation videos scored in a second, and the file that the scores are in,
    beside the model itself.
    """

    logits: Tensor
    ok: Tensor
    report: StageReport
    views_per_second: float
    scores: Path


@dataclass(frozen=True)
class Averaged:
    """An adaptive average: the mixture as an `encoder` of its own, the share of each that went in (of several mixtures
    their mean), and how it did with the head that was learned with it.
    """

    encoder: VideoViT
    shares: tuple[float, ...]
    joint: Finetuned


def finetune(
    accelerator: Accelerator,
    start: Model,
    train: Corpus,
    val: Corpus,
    clip: Clip,
    views: EvalViews,
    config: FinetuneConfig,
    seed: int,
    out: Path,
    threads: int,
    *,
    frozen: bool = False,
) -> Finetuned:
    """Fine-tune all weights on `train`, or with `frozen` those of the head, and score `val`.

    The model lies in a folder of `out` named by all that decides it, its scores there by what else decides these, and
    neither is made again.
    """
    encoder, classes = start.encoder, len(train.manifest.classes)
    settings = {key: value for key, value in asdict(config).items() if key != "seeds"}  # how many there are
    about = {**encoder_key(encoder), "train": train.manifest.digest, "config": settings, "clip": asdict(clip)}
    about |= {"seed": seed, "precision": accelerator.mixed_precision}
    name = cache_name("online" if frozen else "finetune", train, about)
    if accelerator.is_main_process:
        write_origin(out / name, [start.about])
    torch.manual_seed(step_seed(seed, "init-finetune"))
    model = VideoClassifier(encoder.config, classes, config.drop_path)
    model.encoder.load_state_dict(encoder.state_dict())
    model.encoder.requires_grad_(not frozen)  # nor does anything but drop path tell train from eval mode in it
    return _trained(accelerator, name, model, train, val, clip, views, config, seed, out, threads)


def learn_average(
    accelerator: Accelerator,
    parts: tuple[Model, Model],
    train: Corpus,
    val: Corpus,
    clip: Clip,
    views: EvalViews,
    config: AverageConfig,
    out: Path,
    threads: int,
) -> Averaged:
    """The mixture of two encoders that a linear head on `train` is best served by, with that head scored on `val`."""
    encoders = (parts[0].encoder, parts[1].encoder)
    about = {"encoders": [encoder_key(encoder) for encoder in encoders], "train": train.manifest.digest}
    about |= {"config": asdict(config), "clip": asdict(clip), "precision": accelerator.mixed_precision}
    name = cache_name("average", train, about)
    if accelerator.is_main_process:
        write_origin(out / name, [part.about for part in parts])
    torch.manual_seed(step_seed(0, "init-average"))
    average = AdaptiveAverage(encoders, config.mixing, config.drop_path)
    model = AverageClassifier(average, len(train.manifest.classes))
    joint = _trained(accelerator, name, model, train, val, clip, views, config, 0, out, threads)
    weights = load_file(out / name / MODEL).items()
    average.cpu()  # mixed on another device it would have other last bits, and all that is done with it done again
    average.load_state_dict({key.removeprefix("encoder."): v for key, v in weights if key.startswith("encoder.")})
    return Averaged(average.merged(), tuple(average.mixing.softmax(dim=1).mean(dim=0).tolist()), joint)


def _trained(
    accelerator: Accelerator,
    name: str,
    module: VideoClassifier | AverageClassifier,
    train: Corpus,
    val: Corpus,
    clip: Clip,
    views: EvalViews,
    config: TaskConfig,
    seed: int,
    out: Path,
    threads: int,
) -> Finetuned:
    """Train a model on `train` and score it on `val`, of which what lies in `out/NAME` already is not done again."""
    stage = config.stage(len(train))
    whole, encoder = out / name / MODEL, out / name / ENCODER
    scored = cache_name("scores", val, {"val": val.manifest.digest, "views": asdict(views)})
    scores = out / name / f"{scored}.safetensors"

    def loss_of(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        clips, other, share = augment_batch(
            batch.clips, stage.augment, generator, stage.views, accelerator.process_index, accelerator.num_processes
        )
        return mixed_cross_entropy(model(clips), batch.labels, batch.ok, config.smoothing, other, share)

    with ClipLoader(
        [LoaderSource(train, 1.0)],
        clip,
        Views(count=1, scale=stage.crop_scale, flip=stage.flip),
        batch_size=stage.batch_size,
        seed=step_seed(seed, name),
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        threads=threads,
    ) as loader:
        report = train_stage(
            accelerator,
            name,
            module,
            loader,
            stage,
            loss_of,
            out,
            depth=module.encoder.config.depth,
            seed=seed,
            log_every=20,
            save_every=500,
            compiled=False,
            corpora=[train],
            model_header=classifier_header(module.encoder.config, train.manifest.name, train.manifest.classes),
        )
    if not scores.exists():
        module.load_state_dict(load_file(whole))  # it may have been trained before a kill
        started = time.perf_counter()
        logits, ok = score(accelerator, module, val, clip, views, threads)
        speed = len(val) * views.clips * views.crops / (time.perf_counter() - started)
        if accelerator.is_main_process:
            save_tensors(scores, {"logits": logits, "ok": ok, "speed": torch.tensor(speed, dtype=torch.float64)})
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        encoder.unlink(missing_ok=True)  # it is a part of the whole
    saved = load_file(scores)
    return Finetuned(saved["logits"], saved["ok"], report, float(saved["speed"]), scores)


def score(
    accelerator: Accelerator, model: nn.Module, corpus: Corpus, clip: Clip, views: EvalViews, threads: int
) -> tuple[Tensor, Tensor]:
    """Logits float32 (videos, classes) of a trained model, averaged over views, and ok (videos,); on every rank."""
    model = model.to(accelerator.device).eval()
    parts = list(one_pass(accelerator, lambda clips: model(clips).float(), corpus, clip, views, threads))
    ids, rows, ok = (torch.cat(column) for column in zip(*parts))
    order = ids.argsort()
    return rows[order].mean(dim=1), ok[order]

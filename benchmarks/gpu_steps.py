"""What gpu.py measures of training: the steps of both stages as recipes/train.py takes them, and their arithmetic."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from accelerate import Accelerator
from gpu_decode import SEED, wait_for
from torch import Tensor

from understudy.loader import Batch, Clip, ClipLoader, LoaderSource, Views
from understudy.models.align import Aligner
from understudy.models.augment import Augment, augment_batch
from understudy.models.mae import MAEConfig, MaskedAutoencoder, draw_masks, visible_tokens
from understudy.models.optim import parameter_groups
from understudy.models.vit import ViTConfig
from understudy.recipes.configs import ppma
from understudy.recipes.start import make_accelerator
from understudy.recipes.train import Pace, step_seed
from understudy.shards.corpus import Corpus

StageName = Literal["stage1", "stage2"]
CLASSES = 150  # of each of the paper's two sources, of which a batch is of one: here there is one head
SETTLING = 6  # steps before a round is timed: what the loader had ready by then is used up


@dataclass(frozen=True)
class Preset:
    """What is trained, and how much of it is timed."""

    vit: ViTConfig
    mae: MAEConfig
    rows: int
    """Clips in a batch."""
    seconds: float
    """For the steps of a round."""
    rounds: int


def block_flops(tokens: int, width: int, mlp_ratio: float) -> float:
    """FLOPs of one transformer block on `tokens` tokens, forward: the matrix products alone, 2 for a multiply-add.

    Queries, keys and values 6 N d^2, projection 2 N d^2, the two layers of the MLP 4 r N d^2, scores and weighted
    values 4 N^2 d. As counted by Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B).
    """
    return (8 + 4 * mlp_ratio) * tokens * width**2 + 4 * tokens**2 * width


def clip_flops(stage: StageName, vit: ViTConfig, mae: MAEConfig, classes: int = CLASSES) -> float:
    """FLOPs of training on one clip: three times the forward ones (appendix B of arXiv 2204.02311), as the backward
    pass makes a gradient for the inputs and one for the weights of each product. Of the embedding two times, as pixels
    get none. Nothing is counted that is computed again.
    """
    seen = visible_tokens(vit.tokens, mae.mask_ratio) if stage == "stage1" else vit.tokens
    embedding = 2.0 * seen * vit.patch_values * vit.width
    forward = vit.depth * block_flops(seen, vit.width, vit.mlp_ratio)
    if stage == "stage1":
        forward += 2 * vit.tokens * vit.width * mae.decoder_width
        forward += mae.decoder_depth * block_flops(vit.tokens, mae.decoder_width, 4.0)
        forward += 2 * (vit.tokens - seen) * mae.decoder_width * vit.patch_values
    else:
        forward += 2 * vit.width * classes
    return 3 * forward + 2 * embedding


class Trainer:
    """A model with its optimizer, and a step of train_stage's loop with the numbers of the `ppma` config. `strength` is
    stage 2's augmentation, which can be set.
    """

    def __init__(self, stage: StageName, preset: Preset, device: torch.device, *, compiled: bool = False) -> None:
        config = ppma()
        self.device = device
        self.name: StageName = stage
        self.preset = preset
        self._stage = config.stage1 if stage == "stage1" else config.stage2
        self._smoothing = config.smoothing
        self.strength = self._stage.augment
        torch.manual_seed(SEED)
        self.module: MaskedAutoencoder | Aligner
        if stage == "stage1":
            self.module = MaskedAutoencoder(preset.vit, preset.mae)
        else:
            self.module = Aligner(preset.vit, {"gpu": CLASSES}, drop_path=config.drop_path, shared_head=True)
        groups = parameter_groups(
            self.module,
            weight_decay=self._stage.weight_decay,
            layer_decay=self._stage.layer_decay,
            depth=preset.vit.depth,
        )
        optimizer = torch.optim.AdamW(groups, lr=self._stage.rate, betas=self._stage.betas, fused=True)
        if compiled:
            self.module.compile()
        self.accelerator: Accelerator = make_accelerator(config)
        self._model, self._optimizer = self.accelerator.prepare(self.module, optimizer)
        self._generator = torch.Generator(device)
        self._taken = 0
        self.module.train()

    def step(self, batch: Batch) -> Tensor:
        """One step of recipes/train.py: rate, seeds, augmentation, loss, gradients, update. Waits for nothing."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.rate_at(self._taken) * group["lr_scale"]
        torch.manual_seed(step_seed(SEED, self.name, self._taken, 0, "rank", 0))
        self._generator.manual_seed(step_seed(SEED, self.name, self._taken, 0))
        self._taken += 1
        with self.accelerator.autocast():
            loss = self._loss(batch)
        self.accelerator.backward(loss)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        if isinstance(self.module, Aligner):
            groups = len(batch.clips) // (self.strength.group or 1)  # a rehearsal has fewer clips than a group
            strength = self.strength if groups else replace(self.strength, group=0)
            clips, other, share = augment_batch(batch.clips, strength, self._generator, views=1)
            labels = batch.labels % CLASSES  # a corpus may have more classes than the head
            return self._model(clips, labels, batch.ok, batch.source, self._smoothing, other, share)[0]
        visible, asked = draw_masks(len(batch.clips), self.preset.vit.grid, self.preset.mae, self._generator)
        return self._model(batch.clips, visible, asked, batch.ok)


def clip_of(vit: ViTConfig) -> Clip:
    """The clips that this encoder takes."""
    return Clip(vit.frames, 1, vit.size)


def still_batch(preset: Preset, device: torch.device, rows: int) -> Batch:
    """A batch that was there all along: noise, of the shape of a real one."""
    vit = preset.vit
    clips = torch.randint(0, 256, (rows, 3, vit.frames, vit.size, vit.size), dtype=torch.uint8, device=device)
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    return Batch(clips, zeros, "gpu", zeros, torch.ones(rows, dtype=torch.bool, device=device))


def take_steps(trainer: Trainer, batches: Callable[[], Batch], steps: int) -> float:
    """Seconds a step, over `steps` steps; what was asked of the device before is not counted."""
    wait_for(trainer.device)
    started = time.perf_counter()
    losses: list[Tensor] = []
    pace = Pace(trainer.device)
    for _ in range(steps):
        pace.keep()
        losses.append(trainer.step(batches()))
    wait_for(trainer.device)
    seconds = (time.perf_counter() - started) / steps
    if not bool(torch.stack(losses).isfinite().all()):
        raise ValueError("the loss is not finite")
    return seconds


def step_times(trainer: Trainer, corpus: Corpus, views: int, decoder: str) -> dict[str, Any]:
    """Step times with a cached batch and with the loader, in turn; the ratio is the median over the rounds."""
    preset, device = trainer.preset, trainer.device
    cached: list[float] = []
    real: list[float] = []
    taken = 0
    with ClipLoader(
        [LoaderSource(corpus)], clip_of(preset.vit), Views(views), preset.rows, SEED, decoder, device=device
    ) as loader:
        kept = next(loader)
        take_steps(trainer, lambda: kept, 2)
        steps = max(SETTLING, round(preset.seconds / take_steps(trainer, lambda: kept, 3)))
        waited = 0.0
        for _ in range(preset.rounds):
            cached.append(take_steps(trainer, lambda: kept, steps))
            # What the loader had ready is used up. A loader that can't keep up takes fewer steps, not the time of the
            # rows to come.
            pace = take_steps(trainer, lambda: next(loader), SETTLING)
            count = max(3, min(steps, round(3 * preset.seconds / pace)))
            before = loader.wait_seconds
            real.append(take_steps(trainer, lambda: next(loader), count))
            waited += loader.wait_seconds - before
            taken += count
            if pace * (SETTLING + count) > 5 * preset.seconds:
                break
        if loader.skipped:
            raise ValueError(f"samples were skipped: {loader.skipped}")
    ratios = [a / b for a, b in zip(real, cached)]
    return {
        "cached_ms": 1000 * median(cached),
        "real_ms": 1000 * median(real),
        "ratio": median(ratios),
        "ratios": ratios,
        "waiting_ms": 1000 * waited / taken,
        "steps": steps,
        "clips_per_second": preset.rows / median(real),
        "precision": trainer.accelerator.mixed_precision,
    }


def augmentation(trainer: Trainer) -> dict[str, Any]:
    """Step times of a cached batch with augmentation and without, in turn; the ratio is the median over the rounds."""
    preset, strength = trainer.preset, trainer.strength
    still = still_batch(preset, trainer.device, preset.rows)
    without: list[float] = []
    augmented: list[float] = []
    take_steps(trainer, lambda: still, 2)
    steps = max(SETTLING, round(preset.seconds / take_steps(trainer, lambda: still, 3)))
    try:
        for _ in range(preset.rounds):
            for strength_now, seconds in ((Augment(), without), (strength, augmented)):
                trainer.strength = strength_now
                take_steps(trainer, lambda: still, 1)
                seconds.append(take_steps(trainer, lambda: still, steps))
    finally:
        trainer.strength = strength
    ratios = [a / b for a, b in zip(augmented, without)]
    return {
        "without_ms": 1000 * median(without),
        "augmented_ms": 1000 * median(augmented),
        "ratio": median(ratios),
        "ratios": ratios,
        "steps": steps,
        "augment": asdict(strength),
    }


def batch_size(trainer: Trainer, rows: int) -> dict[str, Any]:
    """Step time and memory of a cached batch of so many clips. Raises torch.OutOfMemoryError."""
    on_gpu = trainer.device.type == "cuda"
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(trainer.device)
    still = still_batch(trainer.preset, trainer.device, rows)
    take_steps(trainer, lambda: still, 2)
    steps = max(2, round(trainer.preset.seconds / take_steps(trainer, lambda: still, 1)))
    seconds = take_steps(trainer, lambda: still, steps)
    return {
        "rows": rows,
        "step_ms": 1000 * seconds,
        "clips_per_second": rows / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated(trainer.device) if on_gpu else None,
    }


def waits(trainer: Trainer) -> int:
    """How often a step makes the host wait for the GPU, where PyTorch can tell."""
    still = still_batch(trainer.preset, trainer.device, trainer.preset.rows)
    trainer.step(still)
    if trainer.device.type != "cuda":
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.step(still)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Not PyTorch's own remark that it does not notice every kind.
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def profile(trainer: Trainer, path: Path) -> dict[str, Any]:
    """Where the time of a cached step goes: kernels into `path`, and the share of it in which the device works."""
    on_gpu = trainer.device.type == "cuda"
    still = still_batch(trainer.preset, trainer.device, trainer.preset.rows)
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    take_steps(trainer, lambda: still, 2)
    with torch.profiler.profile(activities=[activity]) as recorded:
        seconds = take_steps(trainer, lambda: still, 3)
    totals = recorded.key_averages()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    path.write_text(totals.table(sort_by=order, row_limit=25, max_name_column_width=90))
    busy = sum(getattr(event, order) for event in totals) / 1e6 / 3
    return {"step_ms": 1000 * seconds, "busy_share": busy / seconds}

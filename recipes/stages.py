"""The two stages of PPMA as `train_stage` takes them: their clips, their losses, and corpora blended in a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from understudy.loader import Batch, Clip, ClipLoader, LoaderSource, Views
from understudy.models.align import Aligner
from understudy.models.augment import augment_batch
from understudy.models.mae import MaskedAutoencoder, draw_masks
from understudy.models.vit import checkpoint_activations
from understudy.models.whole import whole_header
from understudy.recipes.configs import MixedConfig
from understudy.recipes.report import PICTURE, draw_reconstruction, write_report
from understudy.recipes.stage import StageReport
from understudy.recipes.start import threads_of
from understudy.recipes.train import step_seed, train_stage
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError


def run_stage(
    accelerator: Accelerator,
    name: str,
    module: MaskedAutoencoder | Aligner,
    corpora: Sequence[Corpus],
    config: MixedConfig,
) -> StageReport:
    """Train one stage on a mix of corpora, every batch from one of them. `name` is stage1 for masked autoencoding."""
    stage = config.stage1 if name == "stage1" else config.stage2

    def loss_of(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor | tuple[Tensor, Tensor]:
        # All is drawn for the rows of all ranks, so that it does not depend on how many ranks there are.
        rows = len(batch.clips)
        first, everyone = accelerator.process_index * rows, accelerator.num_processes * rows
        if isinstance(module, MaskedAutoencoder):
            drawn = draw_masks(everyone, config.vit.grid, config.mae, generator)
            visible, asked = (index[first : first + rows] for index in drawn)
            return model(batch.clips, visible, asked, batch.ok, batch.holes)
        clips, other, share = augment_batch(
            batch.clips, stage.augment, generator, stage.views, accelerator.process_index, accelerator.num_processes
        )
        return model(clips, batch.labels, batch.ok, batch.source, config.smoothing, other, share)

    if config.checkpoint_activations:
        checkpoint_activations(module)

    def draw(clips: Tensor) -> None:
        if isinstance(module, MaskedAutoencoder):
            with accelerator.autocast():
                draw_reconstruction(module, clips[:: stage.views][:3], config.out / name / PICTURE)
        write_report(config.out)

    # A batch comes from one corpus, so the other corpora's heads get no gradient in that step, on any rank.
    assert accelerator.ddp_handler is not None
    accelerator.ddp_handler.find_unused_parameters = isinstance(module, Aligner) and len(module.heads) > 1
    with ExitStack() as closing:
        return train_stage(
            accelerator,
            name,
            module,
            open_batches(accelerator, name, corpora, config, closing),
            stage,
            loss_of,
            config.out,
            depth=config.vit.depth,
            seed=config.seed,
            log_every=config.log_every,
            save_every=config.save_every,
            compiled=config.compile,
            parts=len(corpora) if stage.blend else 1,
            corpora=corpora,
            on_save=draw,
            model_header=whole_header(module, {c.manifest.name: c.manifest.classes for c in corpora}),
        )


def open_batches(
    accelerator: Accelerator, name: str, corpora: Sequence[Corpus], config: MixedConfig, closing: ExitStack
) -> ClipLoader | Blend:
    """What a stage trains on, for `closing` to close; no thread is started before the first batch is asked for.

    Raises UserError where the stage's batch does not divide among views, ranks or blended corpora.
    """
    first = name == "stage1"
    stage = config.stage1 if first else config.stage2
    shares = (config.mae_weights if first else config.align_weights) or [len(corpus) for corpus in corpora]

    threads = threads_of(config) // (len(corpora) if stage.blend else 1)

    def open_loader(corpora: Sequence[Corpus], shares: Sequence[float], rows: int) -> ClipLoader:
        loader = ClipLoader(
            [LoaderSource(corpus, share) for corpus, share in zip(corpora, shares, strict=True)],
            clip_of(config),
            Views(count=stage.views, scale=stage.crop_scale, flip=stage.flip),
            batch_size=rows,
            seed=step_seed(config.seed, name),
            decoder=config.decoder,
            device=accelerator.device,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            threads=max(1, threads),
            lanes=config.lanes or None,
            allow_changed_corpora=config.allow_changed_corpora,
            places=config.vit.grid[1] if first and config.mae.skip_holes else 0,
        )
        return closing.enter_context(loader)

    try:
        if not stage.blend:
            return open_loader(corpora, shares, stage.batch_size)
        rows = blend_rows(shares, stage.batch_size, stage.views)
        loaders = [open_loader([c], [1.0], n) for c, n in zip(corpora, rows)]
        ClipLoader.share_room(loaders)
        return Blend(loaders)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def clip_of(config: MixedConfig) -> Clip:
    """What the loader cuts: as many frames, as large, as the encoder takes."""
    return Clip(frames=config.vit.frames, stride=config.stride, size=config.vit.size)


class Blend:
    """A batch from each of several loaders in turn: all the parts of a step, before the first one's next."""

    def __init__(self, loaders: Sequence[ClipLoader]) -> None:
        self._loaders = loaders
        self._turn = 0

    def __next__(self) -> Batch:
        """The next loader's batch."""
        batch = next(self._loaders[self._turn])
        self._turn = (self._turn + 1) % len(self._loaders)
        return batch

    @property
    def skipped(self) -> dict[tuple[str, str], int]:
        """Unusable samples of all loaders of this rank."""
        return {key: count for loader in self._loaders for key, count in loader.skipped.items()}

    def state_dict(self) -> dict[str, Any]:
        """The loaders' states; between two steps, when it is the first one's turn."""
        assert self._turn == 0, "in the middle of a step"
        return {"loaders": [loader.state_dict() for loader in self._loaders]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises UserError where it is of other sources or settings."""
        states = state.get("loaders", [])
        if len(states) != len(self._loaders):
            raise UserError("the checkpoint is not of a run that blended these corpora; start a new run")
        for loader, own in zip(self._loaders, states):
            loader.load_state_dict(own)


def blend_rows(shares: Sequence[float], batch_size: int, views: int) -> list[int]:
    """Rows of each corpus in a step: `batch_size` shared out by `shares`, by largest remainder, at least a unit each.

    A unit is the views of one sample, times the largest power of two that leaves eight units a corpus: large batches
    then divide among ranks, and the rows do not depend on how many there are. Raises UserError for a batch too small.
    """
    samples, unit = batch_size // views, 1
    while samples % (2 * unit) == 0 and samples // (2 * unit) >= 8 * len(shares):
        unit *= 2
    units = samples // unit
    if batch_size % views or units < len(shares):
        raise UserError(
            f"a batch of {batch_size} in {views} views can't be blended from {len(shares)} corpora; it must be a "
            f"multiple of {views}, and at least {views * len(shares)}"
        )
    exact = [units * share / sum(shares) for share in shares]
    rows = [max(1, int(x)) for x in exact]
    while sum(rows) != units:
        more = 1 if sum(rows) < units else -1  # one more where most is missing, or less where most is to spare
        able = [i for i in range(len(rows)) if rows[i] + more >= 1]
        rows[max(able, key=lambda i: more * (exact[i] - rows[i]))] += more
    return [n * unit * views for n in rows]

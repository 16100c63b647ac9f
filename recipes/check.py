"""What would stop a run later, looked for before anything is made, claimed or trained. Nothing here writes."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from accelerate import Accelerator

from understudy.loader.read import ShardReader
from understudy.models.attentive import AttentiveConfig
from understudy.models.augment import Augment, check_groups
from understudy.models.mae import draw_masks
from understudy.models.probe import ProbeConfig, group_split
from understudy.recipes.configs import MixedConfig
from understudy.recipes.stages import blend_rows, open_batches
from understudy.recipes.start import named_corpora
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError


def check_settings(config: MixedConfig) -> None:
    """Settings of both stages and the probe that don't fit each other, whatever is in the corpora. Raises UserError."""
    named = named_corpora(config)
    for stage, use, weights in (("stage1", "mae", config.mae_weights), ("stage2", "align", config.align_weights)):
        if not named[use]:  # the stage is not run
            continue
        if weights and len(weights) != len(named[use]):
            raise UserError(
                f"{stage}: {len(weights)} weights for {len(named[use])} corpora; give --{use}-weights one for each"
            )
        if not all(weight > 0 for weight in weights):
            raise UserError(f"{stage}: --{use}-weights must be positive, not {' '.join(map(str, weights))}")
    if config.stage1.augment != Augment():
        raise UserError("stage1: only stages with labels are augmented; masked autoencoding is its own augmentation")
    if config.log_every < 1 or config.save_every < 1 or config.save_every % config.log_every:
        raise UserError(f"--save-every {config.save_every} must be a multiple of --log-every {config.log_every}")
    if not 0 <= config.smoothing <= 1 or not 0 <= config.drop_path < 1:
        raise UserError(
            f"--smoothing must be from 0 to 1 and --drop-path from 0 to under 1, "
            f"not {config.smoothing} and {config.drop_path}"
        )
    visible, asked = draw_masks(1, config.vit.grid, config.mae, torch.Generator())
    if not visible.shape[1] or not asked.shape[1]:
        raise UserError(
            f"--mae.mask-ratio {config.mae.mask_ratio} leaves {visible.shape[1]} of {config.vit.tokens} tokens to see "
            f"and {asked.shape[1]} to ask for; both have to be some"
        )
    if named["probe"]:
        check_probe(config.probe, "--probe")
    if config.ablate and (config.start is not None or config.stages == "stage1"):
        raise UserError("--ablate compares both stages of a run; it does not go with --start or --stages stage1")


def check_corpora(config: MixedConfig, corpora: dict[str, list[Corpus]], accelerator: Accelerator) -> None:
    """The same of what depends on the corpora and the ranks. Raises UserError."""
    with ExitStack() as closing:  # the loaders themselves know best what they refuse
        for stage, use in (("stage1", "mae"), ("stage2", "align")):
            if corpora[use]:
                open_batches(accelerator, stage, corpora[use], config, closing)
    stage2, shares = config.stage2, config.align_weights or [len(corpus) for corpus in corpora["align"]]
    parts = blend_rows(shares, stage2.batch_size, stage2.views) if stage2.blend else [stage2.batch_size]
    for rows in parts if corpora["align"] else []:
        check_mixing(stage2.augment, "stage2", rows, stage2.views, accelerator.num_processes)
    if (
        config.mae.skip_holes
        and corpora["mae"]
        and not any(ShardReader(corpus).tells_holes() for corpus in corpora["mae"])
    ):
        raise UserError(
            "stage1: --mae.skip-holes, but no corpus says where people were; "
            "pack one with --remove-people --removal.keep-holes"
        )
    if corpora["probe"]:
        check_held_out(config.probe, corpora["probe"][0])


def check_mixing(augment: Augment, flag: str, rows: int, views: int, ranks: int) -> None:
    """Raise UserError where mixup's groups of rows don't fit the batch; `flag` is what the settings belong to."""
    try:
        check_groups(augment, rows, views, ranks)
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None


def check_probe(config: ProbeConfig | AttentiveConfig, flag: str) -> None:
    """Raise UserError for a probe that can't be trained; `flag` is what its settings begin with."""
    if not config.rates or min(config.epochs, config.batch_size, config.seeds) < 1:
        raise UserError(f"{flag}: a probe needs a rate, and at least 1 epoch, 1 seed and 1 row a batch; not {config}")


def check_held_out(config: ProbeConfig | AttentiveConfig, train: Corpus) -> None:
    """Raise UserError where there are rates to choose from, and no part of the training set to choose by."""
    if len(config.rates) > 1:
        try:
            group_split(train.label, train.group)
        except ValueError as error:
            raise UserError(f"{train.root}: {error}") from None

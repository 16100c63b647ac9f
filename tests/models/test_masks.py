"""Masks, targets and the size of `base`, against counting by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import DECODER, SMALL, make_clips  # pyright: ignore[reportMissingImports]
from torch.utils.flop_counter import FlopCounterMode

from understudy.models.align import Aligner
from understudy.models.mae import (
    MAEConfig,
    MaskedAutoencoder,
    draw_masks,
    pixel_targets,
    running_cells,
    tube_mask,
)
from understudy.models.vit import BASE, DEMO, to_patches


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("masking", "visible", "asked"), [("random", 157, 1411), ("tube", 8 * (196 - 176), 8 * 176)])
def test_base_sees_and_is_asked_for_as_many_tokens_as_the_papers(masking: str, visible: int, asked: int) -> None:
    config = MAEConfig(masking=masking)  # pyright: ignore[reportArgumentType]
    seen, masked = draw_masks(2, BASE.grid, config, seeded())
    assert (seen.shape, masked.shape) == ((2, visible), (2, asked))
    assert sorted(torch.cat([seen, masked], dim=1)[1].tolist()) == list(range(1568))
    half = draw_masks(2, BASE.grid, replace(config, decode_share=0.5), seeded())
    torch.testing.assert_close(half[0], seen)
    assert half[1].shape == (2, 784)


def test_tubes_are_the_same_at_all_times() -> None:
    visible, masked = tube_mask(3, (5, 4, 6), 0.75, seeded())
    for row in visible.view(3, 5, -1):
        for t in range(5):
            torch.testing.assert_close(row[t] - 24 * t, row[0])
    assert masked.shape == (3, 5 * 18)
    assert not torch.equal(visible[0], visible[1])


def test_random_masks_are_even_in_space_and_time() -> None:
    visible, _ = draw_masks(4000, DEMO.grid, MAEConfig(), seeded())
    share = torch.bincount(visible.flatten(), minlength=DEMO.tokens) / 4000
    assert share.mean().item() == pytest.approx(7 / 64)
    assert (share - 7 / 64).abs().max() < 0.025  # five standard errors


def test_running_cells_keep_two_of_four_and_move_on() -> None:
    time, height, width = 6, 4, 8
    kept = torch.zeros(300, time * height * width, dtype=torch.bool)
    kept.scatter_(1, running_cells(300, (time, height, width), seeded()), True)
    cells = kept.view(300, time, height // 2, 2, width // 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)
    assert (cells.sum(dim=-1) == 2).all()
    assert (cells == cells[:, :, :1, :1]).all()  # every cell alike
    of_time = cells[:, :, 0, 0]
    torch.testing.assert_close(of_time[:, 4:], of_time[:, :2])  # once around in four slices of time
    assert (of_time[:, :4].sum(dim=1) == 2).all()  # and every place is kept as often as any other
    assert len({tuple(row.flatten().tolist()) for row in of_time}) == 4  # four starts
    with pytest.raises(ValueError, match="even grid"):
        running_cells(1, (2, 3, 4), seeded())


def test_half_decoding_counts_only_what_was_not_seen() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(SMALL, replace(DECODER, decode_share=0.5)).eval()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    clips = make_clips(3)
    visible, asked = draw_masks(3, SMALL.grid, model.config, seeded())
    target = pixel_targets(to_patches(clips, SMALL))
    expected = []
    for row in range(3):
        unseen = sorted(set(asked[row].tolist()) - set(visible[row].tolist()))
        assert 0 < len(unseen) < asked.shape[1]
        expected.append((target[row, unseen] ** 2).mean())
    torch.testing.assert_close(model(clips, visible, asked, torch.ones(3, dtype=torch.bool)), sum(expected) / 3)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_was_filled_in_adds_no_loss(share: float) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(SMALL, replace(DECODER, decode_share=share, skip_holes=True)).eval()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    clips, ok = make_clips(3), torch.ones(3, dtype=torch.bool)
    visible, asked = draw_masks(3, SMALL.grid, model.config, seeded())
    _, h, w = SMALL.grid
    holes = torch.zeros(3, SMALL.frames, h, w, dtype=torch.uint8)
    holes[0, : SMALL.tubelet, 0, 1] = 255  # a whole token
    holes[0, 0, 1, 0] = 254  # less than half of one
    holes[0, SMALL.tubelet, 1, 1] = 255  # half of one
    holes[1] = 255
    filled = {0: {1, h * w + w + 1}, 1: set(range(SMALL.tokens)), 2: set()}
    target = pixel_targets(to_patches(clips, SMALL))
    expected = torch.zeros(3)
    for row in range(3):
        counted = sorted(set(asked[row].tolist()) - set(visible[row].tolist()) - filled[row])
        if counted:
            expected[row] = (target[row, counted] ** 2).mean()
    torch.testing.assert_close(model(clips, visible, asked, ok, holes), expected.mean())
    torch.testing.assert_close(
        model(clips, visible, asked, ok, torch.zeros_like(holes)), model(clips, visible, asked, ok)
    )


@pytest.mark.parametrize("layout", ["ppma", "videomae"])
def test_targets_in_both_layouts(layout: str) -> None:
    patches = to_patches(make_clips(1), SMALL)
    patches[0, 0] = 7  # a flat patch has targets 0, and no division by 0
    target = pixel_targets(patches, layout).view(SMALL.tokens, 2, 16, 16, 3).double().numpy()  # pyright: ignore
    x = patches[0].double().numpy() / 255
    for token, channel in ((0, 1), (5, 0), (31, 2)):
        values = x[token, channel]
        spread = np.var(values, ddof=1)
        divisor = math.sqrt(spread + 1e-6) if layout == "ppma" else math.sqrt(spread) + 1e-6
        np.testing.assert_allclose(target[token, ..., channel], (values - values.mean()) / divisor, atol=2e-4)
    assert np.abs(target[0]).max() < 1e-3


def test_one_batch_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    small = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 6, 6), (8, 48, 48), mode="trilinear")
    clips, ok = (small * 255).byte(), torch.ones(2, dtype=torch.bool)
    model = MaskedAutoencoder(DEMO, MAEConfig(decoder_width=64, decoder_depth=2, decoder_heads=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    visible, masked = draw_masks(2, DEMO.grid, model.config, seeded())
    losses: list[float] = []
    for _ in range(100):
        loss = model(clips, visible, masked, ok)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 0.9  # nothing known: about the variance of the targets, 1
    assert losses[-1] < 0.6


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        MAEConfig(mask_ratio=1.0)
    with pytest.raises(ValueError, match="decode_share"):
        MAEConfig(decode_share=0.3)


def gmacs(model: torch.nn.Module, *inputs: object) -> dict[str, float]:
    """Billions of multiply-adds of one forward pass, by submodule."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(*inputs)
    name = type(model).__name__
    return {
        module.removeprefix(f"{name}."): sum(counts.values()) / 2e9
        for module, counts in counter.get_flop_counts().items()
    }


def test_base_costs_what_the_paper_says() -> None:
    """Parameters and multiply-adds of one clip, against figures derived from the published shapes."""
    with torch.device("meta"):
        model = MaskedAutoencoder(BASE, MAEConfig()).eval()
        clips = torch.zeros(1, 3, 16, 224, 224, dtype=torch.uint8)
        visible, masked = torch.zeros(1, 157, dtype=torch.long), torch.zeros(1, 1411, dtype=torch.long)
        ok = torch.ones(1, dtype=torch.bool)
        cost = gmacs(model, clips, visible, masked, ok)
        aligner = Aligner(BASE, {"a": 150}).eval()
        whole = gmacs(aligner, clips, torch.zeros(1, dtype=torch.long), ok, "a", 0.1)
    blocks = sum(v for k, v in cost.items() if k.startswith("encoder.blocks.") and k.count(".") == 2)
    decoder = sum(v for k, v in cost.items() if k.startswith("decoder_blocks.") and k.count(".") == 1)
    assert blocks == pytest.approx(13.8, rel=0.01)
    assert decoder == pytest.approx(18.7, rel=0.01)
    assert cost["decoder_embed"] == pytest.approx(0.46, rel=0.01)
    # The reference embeds all 1,568 tubes and predicts all of them; here those that are used.
    assert cost["head"] == pytest.approx(0.92 * 1411 / 1568, rel=0.01)
    embedded = cost["Global"] - blocks - decoder - cost["decoder_embed"] - cost["head"]
    assert embedded == pytest.approx(1.85 * 157 / 1568, rel=0.01)
    assert whole["Global"] == pytest.approx(180.3, rel=0.01)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sizes["encoder"] == pytest.approx(86.2e6, rel=0.01)
    block = 12 * 384**2 + 13 * 384  # of a transformer block: four matrices, their biases and two norms
    assert sizes["decoder_blocks"] == 4 * block
    assert sizes["decoder_embed"] + sizes["decoder_norm"] + sizes["head"] == 768 * 384 + 384 + 768 + 384 * 1536 + 1536


@pytest.mark.parametrize(
    "wrong",
    [{"decoder_heads": 5}, {"decoder_heads": 0}, {"decoder_width": 0}, {"decoder_depth": -1}],
)
def test_a_decoder_that_can_not_be_made_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        MAEConfig(**wrong)  # pyright: ignore[reportArgumentType]
    assert str(next(iter(wrong.values()))) in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"heads": 5}, {"heads": 0}, {"width": 0}, {"patch": 0}, {"patch": 15}, {"frames": 3}]
)
def test_an_encoder_that_can_not_be_made_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(BASE, **wrong)  # pyright: ignore[reportArgumentType]

"""Augmentation against independent computation: Pillow for RandAugment, arithmetic by hand for the rest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from understudy.models import randaugment as ops
from understudy.models.align import mixed_cross_entropy
from understudy.models.augment import (
    Augment,
    Plan,
    augment,
    augment_batch,
    check_groups,
    cutmix_box,
    draw_erased,
    draw_plan,
    normalised,
    partners,
)
from understudy.models.randaugment import OPERATIONS, Draws, draw_operations, randaugment

H, W, T = 40, 56, 3
PPMA = Augment(operations=4, erasing=0.25, mixup=0.8, cutmix=1.0)


def smooth_clips(rows: int, seed: int = 0) -> Tensor:
    """Pictures with edges and gradients, a different one for each frame."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.integers(0, 256, (rows * 3 * T, 1, 7, 9)).astype(np.float32))
    big = torch.nn.functional.interpolate(small, (H, W), mode="bilinear", align_corners=True)
    return big.round().clamp(0, 255).byte().view(rows, 3, T, H, W)


def by_pillow(clips: Tensor, picture: Callable[[Image.Image, int], Image.Image]) -> Tensor:
    """`picture(image, row)` on every frame."""
    out = torch.empty_like(clips)
    for row in range(len(clips)):
        for t in range(clips.shape[2]):
            image = Image.fromarray(clips[row, :, t].permute(1, 2, 0).numpy())
            out[row, :, t] = torch.from_numpy(np.array(picture(image, row))).permute(2, 0, 1)
    return out


def assert_near(got: Tensor, expected: Tensor, levels: float, where: Tensor | None = None) -> None:
    difference = (got.int() - expected.int()).abs()
    if where is not None:
        difference = difference[where.expand_as(difference)]
    assert difference.numel() > 1000
    assert difference.max() <= levels, difference.max()


FACTORS = torch.tensor([0.37, 1.0, 1.63])


@pytest.mark.parametrize(
    ("operation", "enhancer", "levels"),
    [
        (ops.brightness, ImageEnhance.Brightness, 1),
        (ops.contrast, ImageEnhance.Contrast, 1),
        (ops.saturation, ImageEnhance.Color, 2),  # Pillow rounds grey to a byte before it blends
        (ops.sharpness, ImageEnhance.Sharpness, 1),
    ],
)
def test_blends_are_pillows(operation: Callable, enhancer: Callable, levels: int) -> None:
    clips = smooth_clips(3)
    got = operation(clips, FACTORS)
    expected = by_pillow(clips, lambda image, row: enhancer(image).enhance(float(FACTORS[row])))
    assert_near(got, expected, levels)
    torch.testing.assert_close(got[1], clips[1], rtol=0, atol=0)
    assert not torch.equal(got[0], clips[0])


def test_sharpness_blurs_as_pillows_kernel_does() -> None:
    clips = smooth_clips(1)
    kernel = ImageFilter.Kernel((3, 3), (1, 1, 1, 1, 5, 1, 1, 1, 1))
    assert_near(ops.sharpness(clips, torch.zeros(1)), by_pillow(clips, lambda image, _: image.filter(kernel)), 1)


def test_tables_are_pillows() -> None:
    clips, nothing = smooth_clips(3), torch.zeros(3)
    dark = (clips // 3 + 20).contiguous()
    assert_near(ops.invert(clips, nothing), by_pillow(clips, lambda image, _: ImageOps.invert(image)), 0)
    assert_near(ops.equalize(dark, nothing), by_pillow(dark, lambda image, _: ImageOps.equalize(image)), 0)
    assert_near(ops.autocontrast(dark, nothing), by_pillow(dark, lambda image, _: ImageOps.autocontrast(image)), 1)
    bits = [4, 2, 1]
    expected = by_pillow(clips, lambda image, row: ImageOps.posterize(image, bits[row]))
    assert_near(ops.posterize(clips, torch.tensor(bits).float()), expected, 0)
    thresholds = [0, 77, 255]
    expected = by_pillow(clips, lambda image, row: ImageOps.solarize(image, thresholds[row]))
    assert_near(ops.solarize(clips, torch.tensor(thresholds) / 255), expected, 0)
    assert not ops.posterize(clips, torch.zeros(3)).any()


def test_flat_pictures_stay() -> None:
    flat = torch.full((2, 3, T, H, W), 90, dtype=torch.uint8)
    flat[1, 0] = 200
    for operation in (ops.equalize, ops.autocontrast):
        torch.testing.assert_close(operation(flat, torch.zeros(2)), flat, rtol=0, atol=0)


ANGLES, SHEARS, SHIFTS = (20.0, -7.5, 0.0), (0.21, -0.3, 0.1), (0.31, -0.1, 0.45)
AFFINE = Image.Transform.AFFINE
GEOMETRY: dict[str, tuple[Callable, tuple[float, ...], Callable[[Image.Image, float, int], Image.Image]]] = {
    "rotate": (
        ops.rotate,
        ANGLES,
        lambda image, a, fill: image.rotate(a, Image.Resampling.BILINEAR, fillcolor=(fill,) * 3),
    ),
    "shear_x": (ops.shear_x, SHEARS, lambda image, f, fill: affine(image, (1, f, 0, 0, 1, 0), fill)),
    "shear_y": (ops.shear_y, SHEARS, lambda image, f, fill: affine(image, (1, 0, 0, f, 1, 0), fill)),
    "translate_x": (ops.translate_x, SHIFTS, lambda image, f, fill: affine(image, (1, 0, f * W, 0, 1, 0), fill)),
    "translate_y": (ops.translate_y, SHIFTS, lambda image, f, fill: affine(image, (1, 0, 0, 0, 1, f * H), fill)),
}


def affine(image: Image.Image, matrix: tuple[float, ...], fill: int) -> Image.Image:
    return image.transform(image.size, AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(fill,) * 3)


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_pillows(name: str) -> None:
    operation, arguments, pillow = GEOMETRY[name]
    clips = smooth_clips(3)
    got = operation(clips, torch.tensor(arguments))
    expected = by_pillow(clips, lambda image, row: pillow(image, arguments[row], 128))
    # Where it comes from the inside for certain: a white picture on black stays pure white there.
    white = torch.full_like(clips, 255)
    inside = by_pillow(white, lambda image, row: pillow(image, arguments[row], 0)) == 255
    inside &= operation(white, torch.tensor(arguments)) == 255
    assert inside.float().mean() > 0.4
    assert_near(got, expected, 1, inside)
    outside = by_pillow(white, lambda image, row: pillow(image, arguments[row], 0)) == 0
    outside &= operation(white, torch.tensor(arguments)) == 128
    if name != "rotate":
        assert outside.float().mean() > 0.05
    assert_near(got, torch.full_like(got, 128), 0, outside)


def test_operations_are_the_same_on_all_frames() -> None:
    still = smooth_clips(4)[:, :, :1].repeat(1, 1, T, 1, 1)
    out = randaugment(still, draw_operations(4, 4, 7.0, 0.5, 1.0, np.random.default_rng(3)))
    assert not torch.equal(out, still)
    for t in range(1, T):
        torch.testing.assert_close(out[:, :, t], out[:, :, 0], rtol=0, atol=0)


def test_a_row_gets_its_own_operations_in_its_own_order() -> None:
    clips = smooth_clips(5)
    draws = draw_operations(5, 4, 7.0, 0.5, 0.7, np.random.default_rng(1))
    together = randaugment(clips, draws)
    for row in range(5):
        alone = clips[row : row + 1]
        for operation, argument in zip(draws.operation[:, row], draws.argument[:, row]):
            if operation >= 0:
                alone = OPERATIONS[operation].apply(alone, torch.tensor([argument]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=0)


def test_draws_follow_pytorchvideo() -> None:
    draws = draw_operations(20_000, 4, 7.0, 0.5, 0.5, np.random.default_rng(0))
    assert draws.operation.shape == (4, 20_000)
    happens = draws.operation >= 0
    assert abs(happens.mean() - 0.5) < 0.01
    counts = np.bincount(draws.operation[happens], minlength=14) / happens.sum()
    assert np.abs(counts - 1 / 14).max() < 0.005
    for row in draws.operation.T[:500]:
        drawn = row[row >= 0]
        assert len(set(drawn)) == len(drawn)
    # Of rotation: plus or minus 30 degrees x level / 10, and the level is 7 with deviation 0.5.
    degrees = draws.argument[draws.operation == 7]
    assert abs(np.abs(degrees).mean() - 21) < 0.1
    assert abs(np.abs(degrees).std() - 1.5) < 0.1
    assert abs((degrees > 0).mean() - 0.5) < 0.03
    bits = draws.argument[draws.operation == 8]
    assert set(bits) <= {1.0, 2.0, 3.0}  # 4 - int(0.4 x level)
    assert abs((bits == 2).mean() - 0.84) < 0.04  # levels 5 to 7.5
    threshold = draws.argument[draws.operation == 9]
    assert abs(threshold.mean() - 0.3) < 0.01


def test_erasing_is_one_box_of_unit_noise_on_all_frames() -> None:
    clips = smooth_clips(64)
    plan = draw_plan(64, H, W, Augment(erasing=0.5), np.random.default_rng(0))
    erased = [i for i, e in enumerate(plan.erased) if e is not None]
    assert 20 < len(erased) < 44
    got, before = augment(clips, plan, 0, 1), normalised(clips)
    noise: list[Tensor] = []
    for i in range(64):
        changed = (got[i] != before[i]).flatten(0, 1)
        if i not in erased:
            assert not changed.any()
            continue
        (top, left, height, width), _ = plan.erased[i] or ((0, 0, 0, 0), 0)
        assert 0.015 < height * width / (H * W) < 0.35
        box = torch.zeros(H, W, dtype=torch.bool)
        box[top : top + height, left : left + width] = True
        assert torch.equal(changed.any(dim=0), box)
        noise.append(got[i][:, :, box].flatten())
    everything = torch.cat(noise)
    assert abs(everything.mean().item()) < 0.02
    assert abs(everything.std().item() - 1) < 0.02


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(8, 64), width=st.integers(8, 64), share=st.floats(0, 1))
def test_boxes_lie_inside(seed: int, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    for top, left, h, w in (draw_erased(height, width, rng), cutmix_box(height, width, share, rng)):
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width


def test_mixup_blends_with_the_neighbour() -> None:
    clips = smooth_clips(5)
    plan = draw_plan(5, H, W, Augment(mixup=0.8), np.random.default_rng(0))
    x, got = normalised(clips), augment(clips, plan, 0, 1)
    share = plan.mixes[0].share
    assert 0 < share < 1
    for row, partner in enumerate([1, 0, 3, 2, 4]):
        expected = share * x[row] + (1 - share) * x[partner]
        torch.testing.assert_close(got[row], expected, rtol=1e-5, atol=1e-5)
    assert partners(8, 2).tolist() == [2, 3, 0, 1, 6, 7, 4, 5]


def test_cutmix_pastes_the_box_and_counts_what_the_edges_left() -> None:
    clips = smooth_clips(4)
    x, cut = normalised(clips), 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        plan = draw_plan(4, H, W, Augment(cutmix=1.0), rng)
        again = np.random.default_rng(seed)
        draw_operations(4, 0, 7.0, 0.5, 0.5, again)
        again.random(4)
        drawn = again.beta(1.0, 1.0)
        scale = np.sqrt(1 - drawn)
        half_h, half_w = int(H * scale) // 2, int(W * scale) // 2
        y, x0 = again.integers(H), again.integers(W)
        inside = np.zeros((H, W), bool)
        inside[max(0, y - half_h) : y + half_h, max(0, x0 - half_w) : x0 + half_w] = True
        cut += inside.sum() < 4 * half_h * half_w
        assert plan.mixes[0].share == pytest.approx(1 - inside.mean())
        got = augment(clips, plan, 0, 1)
        mask = torch.from_numpy(inside)
        torch.testing.assert_close(got, torch.where(mask, x[[1, 0, 3, 2]], x), rtol=0, atol=0)
    assert cut > 5  # boxes that the edges cut were among them


def test_mixup_and_cutmix_share_the_batches() -> None:
    mixes = [draw_plan(2, H, W, PPMA, np.random.default_rng(seed)).mixes[0] for seed in range(400)]
    assert 160 < sum(mix.box is None for mix in mixes) < 240
    blends = np.array([mix.share for mix in mixes if mix.box is None])
    assert abs(blends.mean() - 0.5) < 0.05
    assert abs(blends.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.02  # of a Beta(0.8, 0.8)


def test_a_group_is_mixed_by_a_draw_of_its_own() -> None:
    clips, config = smooth_clips(16), Augment(mixup=0.8, cutmix=1.0, group=4)
    plan = draw_plan(16, H, W, config, np.random.default_rng(2))
    assert len({mix.share for mix in plan.mixes}) == 4
    assert {mix.box is None for mix in plan.mixes} == {True, False}
    got, other, share = augment_batch(clips, config, torch.Generator().manual_seed(2), views=1)
    assert other is not None and isinstance(share, Tensor)
    torch.testing.assert_close(share, torch.tensor([plan.mixes[row // 4].share for row in range(16)]))
    assert all(row // 4 == partner // 4 for row, partner in enumerate(other.tolist()))
    for number, mix in enumerate(plan.mixes):  # as if it were a batch of its own
        rows = slice(4 * number, 4 * number + 4)
        alone = replace(plan, group=4, mixes=(mix,))
        torch.testing.assert_close(got[rows], augment(clips[rows], alone, 0, 1), rtol=0, atol=0)


def test_the_loss_of_a_group_weighs_labels_by_its_own_draw() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels, ok, other = torch.tensor([0, 1, 2, 3]), torch.ones(4, dtype=torch.bool), torch.tensor([1, 0, 3, 2])
    loss = mixed_cross_entropy(logits, labels, ok, 0.0, other, torch.tensor([0.9, 0.9, 0.25, 0.25]))
    by_hand = -logits.log_softmax(dim=1)
    rows = [share * by_hand[i, i] + (1 - share) * by_hand[i, i ^ 1] for i, share in enumerate((0.9, 0.9, 0.25, 0.25))]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_groups_that_do_not_fit_are_refused() -> None:
    fitting = ((128, 16, 1, 8), (32, 8, 1, 4), (48, 0, 1, 24), (48, 12, 3, 4), (7, 0, 1, 1), (6, 0, 1, 3))
    for rows, group, views, ranks in fitting:
        check_groups(replace(PPMA, group=group), rows, views, ranks)
    check_groups(Augment(group=16), 6, 1, 2)  # nothing is mixed
    for rows, group, views, ranks in ((40, 16, 1, 1), (6, 3, 1, 1), (48, 8, 3, 1), (8, -8, 1, 1)):
        with pytest.raises(ValueError, match=rf"groups of {group} rows don't fit a batch of {rows}: a group must"):
            check_groups(replace(PPMA, group=group), rows, views, ranks)
    for rows, group, views, ranks in ((16, 8, 1, 16), (6, 0, 1, 2), (48, 0, 1, 48), (12, 0, 2, 2), (9, 0, 1, 3)):
        match = rf"^a batch of {rows} on {ranks} ranks parts clips .*; give a multiple of {2 * views * ranks}, or other"
        with pytest.raises(ValueError, match=match):
            check_groups(replace(PPMA, group=group), rows, views, ranks)


@pytest.mark.parametrize("views", [1, 3])
def test_ranks_that_pass_mix_the_pairs_that_one_does(views: int) -> None:
    for samples, ranks in itertools.product(range(1, 33), range(2, 9)):
        rows, part = samples * views, samples * views // ranks
        if samples % ranks:
            continue
        parts = [partners(part, views) + rank * part for rank in range(ranks)]
        same = torch.equal(torch.cat(parts), partners(rows, views))
        try:
            check_groups(PPMA, rows, views, ranks)
            assert same
        except ValueError:
            assert not same


@pytest.mark.parametrize("group", [0, 2, 8])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_together_make_what_one_makes(ranks: int, group: int) -> None:
    clips = smooth_clips(8)
    plan = draw_plan(8, H, W, replace(PPMA, group=group), np.random.default_rng(5))
    whole, part = augment(clips, plan, 0, 1), 8 // ranks
    parts = [augment(clips[i : i + part], plan, i, 1) for i in range(0, 8, part)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_a_steps_batch_is_drawn_by_its_seed_for_all_ranks(seed: int) -> None:
    clips, generator = smooth_clips(8), torch.Generator().manual_seed(seed)
    whole, other, share = augment_batch(clips, PPMA, generator, views=2)
    torch.rand(3, generator=generator)  # what masks or dropout draw is of no account
    halves = [augment_batch(clips[i : i + 4], PPMA, generator, 2, rank, 2) for rank, i in enumerate((0, 4))]
    torch.testing.assert_close(torch.cat([half for half, _, _ in halves]), whole, rtol=0, atol=0)
    plan = draw_plan(8, H, W, PPMA, np.random.default_rng(seed))
    torch.testing.assert_close(augment(clips, plan, 0, 2), whole, rtol=0, atol=0)
    assert other is not None and other.tolist() == [2, 3, 0, 1, 6, 7, 4, 5]
    for got in (share, torch.cat([torch.as_tensor(half) for _, _, half in halves])):
        torch.testing.assert_close(got, torch.full((8,), plan.mixes[0].share))
    unmixed = augment_batch(clips, Augment(), generator, views=2)
    assert unmixed == (clips, None, 1.0)


def test_nothing_is_done_where_everything_is_off() -> None:
    clips = smooth_clips(2)
    plan: Plan = draw_plan(2, H, W, Augment(), np.random.default_rng(0))
    assert plan.mixes == ()
    assert augment(clips, plan, 0, 1) is clips
    before = clips.clone()
    augment(clips, draw_plan(2, H, W, PPMA, np.random.default_rng(0)), 0, 1)
    torch.testing.assert_close(clips, before, rtol=0, atol=0)  # the loader may still own it
    assert Draws(plan.draws.operation, plan.draws.argument).operation.shape == (0, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_a_gpu_computes_what_the_cpu_does(number: int) -> None:
    clips, operation = smooth_clips(3), OPERATIONS[number]
    arguments = torch.tensor([operation.argument(level, sign) for level, sign in ((7, 1), (7, -1), (9.5, 1))])
    assert_near(operation.apply(clips.cuda(), arguments.cuda()).cpu(), operation.apply(clips, arguments), 1)

"""Arithmetic of the encoder, the autoencoder and alignment, against independent computation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.models.align import Aligner, head_name, right_answers
from understudy.models.mae import MAEConfig, MaskedAutoencoder, pixel_targets, random_mask, visible_tokens
from understudy.models.vit import BASE, DEMO, MEAN, STD, VideoViT, ViTConfig, sinusoid_positions, to_patches

TINY = ViTConfig(frames=4, size=16, tubelet=2, patch=8, width=32, depth=2, heads=2)
SMALL_DECODER = MAEConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)


def random_clips(rows: int, config: ViTConfig, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 3, config.frames, config.size, config.size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_base_is_the_papers() -> None:
    assert BASE.tokens == 1568
    assert BASE.grid == (8, 14, 14)
    assert visible_tokens(1568, 0.9) == 157
    with torch.device("meta"):
        model = MaskedAutoencoder(BASE, MAEConfig())
    encoder = sum(p.numel() for p in model.encoder.parameters())
    # ViT-B by hand: embedding, 12 blocks of (qkv, proj, two MLP layers, two norms), last norm.
    d, patch = 768, 1536
    block = d * 3 * d + 3 * d + d * d + d + 2 * d * 4 * d + 4 * d + d + 4 * d
    assert encoder == patch * d + d + 12 * block + 2 * d


@pytest.mark.parametrize(("tokens", "width"), [(1568, 768), (24, 32)])
def test_positions_are_the_sinusoid_table(tokens: int, width: int) -> None:
    table = sinusoid_positions(tokens, width)
    for position in (0, 1, tokens // 3, tokens - 1):
        for j in (0, 1, 2, 7, width - 2, width - 1):
            angle = position / 10000 ** (2 * (j // 2) / width)
            expected = math.sin(angle) if j % 2 == 0 else math.cos(angle)
            assert table[position, j].item() == pytest.approx(expected, abs=1e-6)


def test_patch_embedding_equals_a_convolution_and_positions_are_t_h_w() -> None:
    model, clips = VideoViT(replace(TINY, depth=0)), random_clips(2, TINY)
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)
    proj = model.patch_embed["proj"]
    expected = proj((clips.float() / 255 - mean) / std)  # (N, D, t, h, w)
    tokens = model.tokens(to_patches(clips, TINY)) - model.positions
    t, h, w = TINY.grid
    for token, (i, j, k) in enumerate((i, j, k) for i in range(t) for j in range(h) for k in range(w)):
        torch.testing.assert_close(tokens[:, token], expected[:, :, i, j, k], atol=1e-4, rtol=1e-4)


def test_only_visible_tokens_reach_the_encoder() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY, SMALL_DECODER).eval()
    visible, _ = random_mask(2, TINY.tokens, 0.5, torch.Generator().manual_seed(1))
    clips = random_clips(2, TINY)
    patches = to_patches(clips, TINY)
    picked = torch.stack([row[index] for row, index in zip(patches, visible)])
    alone = model.encoder.tokens(picked, visible)
    # A full-width run with the other tokens removed from attention gives the same.
    everything = model.encoder.tokens(patches)
    assert alone.shape == (2, visible.shape[1], TINY.width)
    assert not torch.allclose(alone, torch.stack([row[index] for row, index in zip(everything, visible)]), atol=1e-4)
    shuffled = torch.randperm(visible.shape[1])
    again = model.encoder.tokens(picked[:, shuffled], visible[:, shuffled])
    torch.testing.assert_close(again, alone[:, shuffled], atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(2, 300), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 2**31))
def test_masks_partition_the_tokens(tokens: int, ratio: float, seed: int) -> None:
    visible, masked = random_mask(3, tokens, ratio, torch.Generator().manual_seed(seed))
    assert masked.shape[1] == int(ratio * tokens)
    for row in torch.cat([visible, masked], dim=1).sort(dim=1).values:
        assert row.tolist() == list(range(tokens))


def test_targets_are_normalised_per_patch_and_channel_c_fastest() -> None:
    patches = to_patches(random_clips(2, TINY), TINY)
    target = pixel_targets(patches)
    values = TINY.tubelet * TINY.patch * TINY.patch
    layout = target.view(2, TINY.tokens, TINY.tubelet, TINY.patch, TINY.patch, 3)
    x = patches[1, 3, 2].double() / 255  # one patch, the blue channel
    expected = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).sum().item() / (values - 1) + 1e-6)
    torch.testing.assert_close(layout[1, 3, ..., 2].double(), expected, atol=1e-5, rtol=1e-5)


def test_loss_is_the_error_on_masked_patches_of_ok_rows() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY, SMALL_DECODER)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    clips = random_clips(4, TINY)
    visible, masked = random_mask(4, TINY.tokens, 0.75, torch.Generator().manual_seed(0))
    ok = torch.tensor([True, False, True, True])
    target = pixel_targets(to_patches(clips, TINY))
    per_row = torch.stack([(target[i, masked[i]] ** 2).mean() for i in range(4)])
    torch.testing.assert_close(model(clips, visible, masked, ok), (per_row * ok).sum() / 4)
    clips[1] = 0
    torch.testing.assert_close(model(clips, visible, masked, ok), (per_row * ok).sum() / 4)


def test_masked_pixels_do_not_leak_into_the_prediction() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY, SMALL_DECODER).eval()
    seen: list[Tensor] = []
    model.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    clips = random_clips(2, TINY)
    visible, masked = random_mask(2, TINY.tokens, 0.5, torch.Generator().manual_seed(0))
    ok = torch.ones(2, dtype=torch.bool)
    model(clips, visible, masked, ok)
    patches = to_patches(clips, TINY)
    patches[torch.arange(2)[:, None], masked] = 7
    t, h, w = TINY.grid
    blanked = patches.view(2, t, h, w, 3, TINY.tubelet, TINY.patch, TINY.patch)
    blanked = blanked.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(clips.shape)
    model(blanked, visible, masked, ok)
    torch.testing.assert_close(seen[0], seen[1])


def test_alignment_starts_from_the_encoder_with_separate_heads() -> None:
    torch.manual_seed(0)
    trained = VideoViT(TINY)
    torch.nn.init.constant_(trained.norm.weight, 3.0)
    aligner = Aligner(TINY, {"a": 5, "b.c": 7}, drop_path=0.0)
    aligner.load_encoder(trained.state_dict())
    assert aligner.encoder.norm.weight.eq(3).all()
    aligner.load_encoder(trained.state_dict(), fresh_norm=True)
    assert aligner.encoder.norm.weight.eq(1).all()
    assert aligner.encoder.norm.bias.eq(0).all()
    torch.testing.assert_close(aligner.encoder.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
    clips, ok = random_clips(3, TINY), torch.ones(3, dtype=torch.bool)
    loss, answers = aligner(clips, torch.tensor([0, 6, 2]), ok, "b.c", 0.1)
    loss.backward()
    logits = aligner.heads[head_name("b.c")](aligner.encoder(clips))
    log_p = logits.log_softmax(dim=1)
    soft = torch.full((3, 7), 0.1 / 7)
    soft[torch.arange(3), torch.tensor([0, 6, 2])] += 0.9
    torch.testing.assert_close(loss, -(soft * log_p).sum(dim=1).mean())
    assert answers.tolist() == [(logits.argmax(dim=1) == torch.tensor([0, 6, 2])).sum(), 3]
    assert aligner.heads[head_name("a")].weight.grad is None
    with pytest.raises(ValueError, match="weights of another model"):
        aligner.load_encoder({"nonsense": torch.zeros(1)})


def test_a_shared_head_takes_the_widest_label_space() -> None:
    aligner = Aligner(TINY, {"a": 5, "b": 7}, shared_head=True)
    assert [head.out_features for head in aligner.heads.values()] == [7]
    clips, ok = random_clips(2, TINY), torch.ones(2, dtype=torch.bool)
    aligner.eval()
    labels = torch.tensor([1, 2])
    torch.testing.assert_close(aligner(clips, labels, ok, "a", 0.0)[0], aligner(clips, labels, ok, "b", 0.0)[0])


def test_a_mixed_clip_is_right_in_the_shares_of_its_labels() -> None:
    logits = torch.eye(4)[[0, 1, 3, 2]]  # what is called
    labels, other = torch.tensor([0, 0, 2, 2]), torch.tensor([1, 2, 3, 0])
    ok = torch.tensor([True, True, True, True])
    assert right_answers(logits, labels, ok).tolist() == [2, 4]
    # Rows 0 and 3 are right by their own label; row 0's partner has label 0 too, and row 3's has not.
    mixed = right_answers(logits, labels, ok, other, 0.75)
    torch.testing.assert_close(mixed, torch.tensor([1 + 0.75, 4.0]))
    # A row that can't be used does not count, nor what was mixed with it.
    assert right_answers(logits, labels, torch.tensor([True, True, True, False]), other, 0.75).tolist() == [1, 2]


def test_features_pool_then_norm() -> None:
    torch.manual_seed(0)
    model, clips = VideoViT(DEMO).eval(), random_clips(2, DEMO)
    pooled = model.tokens(to_patches(clips, DEMO)).mean(dim=1)
    torch.testing.assert_close(model(clips), F.layer_norm(pooled, (DEMO.width,), eps=1e-6))


def test_shapes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divide"):
        ViTConfig(frames=15)

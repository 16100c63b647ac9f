"""The page and the picture that a run leaves to be looked at."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.models.mae import MAEConfig, MaskedAutoencoder, draw_masks, pixel_targets
from understudy.models.vit import ViTConfig, gather_tokens, to_patches
from understudy.recipes.report import curve, draw_reconstruction, from_patches, nice_ticks, reconstruct, write_report

VIT = ViTConfig(frames=4, size=32, patch=8, width=32, depth=1, heads=1)


def make_clips() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, VIT.frames, VIT.size, VIT.size), generator=generator).byte()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_perfect_decoder_rebuilds_the_clip(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    mae = MAEConfig(mask_ratio=0.75, decoder_width=16, decoder_depth=1, decoder_heads=1, decode_share=share)
    model, clips = MaskedAutoencoder(VIT, mae).eval(), make_clips()
    visible, asked = draw_masks(2, VIT.grid, mae, torch.Generator().manual_seed(0))
    patches = to_patches(clips, VIT)
    perfect = pixel_targets(gather_tokens(patches, asked))
    monkeypatch.setattr(model.head, "forward", lambda x: perfect)
    rebuilt, seen = reconstruct(model, clips)
    shown = torch.zeros(2, VIT.tokens, dtype=torch.bool)
    shown.scatter_(1, visible, True)
    assert torch.equal(to_patches(seen, VIT)[shown], patches[shown])
    assert (to_patches(seen, VIT)[~shown] == 118).all()
    shown.scatter_(1, asked, True)
    assert shown.all() == (share == 1)
    assert torch.equal(to_patches(rebuilt, VIT)[shown], patches[shown])
    assert torch.equal(from_patches(patches, VIT), clips)


def test_the_picture_shows_each_clip_three_times(tmp_path: Path) -> None:
    model, clips = MaskedAutoencoder(VIT, MAEConfig(decoder_width=16, decoder_heads=1)), make_clips()
    state = torch.get_rng_state()
    draw_reconstruction(model, clips, tmp_path / "x.png", frames=3)
    assert torch.equal(torch.get_rng_state(), state) and model.training  # training goes on as if nothing had been
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert picture.shape[1] > 3 * 4 * VIT.size and picture.shape[0] > 6 * 4 * VIT.size
    first = picture[: 4 * VIT.size : 4, 96 : 96 + 4 * VIT.size : 4]
    assert (first == clips[0, :, 0].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.97, 1.02), (0.0, 8e-4), (3.0, 3.0), (0.0, 0.0), (-1e9, 5.0)])
def test_ticks_are_few_round_and_hold_all(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= low + 1e-9 * abs(low) and high <= ticks[-1] * (1 + 1e-9) + 1e-9
    assert len({f"{tick:.6e}" for tick in ticks}) == len(ticks)


def test_curves_are_drawings_without_holes() -> None:
    for points in ([(5, 0.5)], [(step, 1 / step) for step in range(1, 2000)], [(1, 0.0), (2, 0.0)]):
        drawn = ET.fromstring(curve(points, "a < b", "{:.3g}", True))
        (line,) = (part for part in drawn if part.tag.endswith("polyline"))
        numbers = [float(n) for n in re.split("[ ,]", line.attrib["points"])]
        assert len(numbers) // 2 == min(len(points), 400)
        assert all(0 <= n <= 300 for n in numbers)


def test_the_page_is_whole_in_itself(tmp_path: Path) -> None:
    rows = [
        {"stage": stage, "step": s, "loss": 1 / s, "rate": 0.1, "samples_per_second": 9, "data_share": 0, "skipped": 0}
        for stage in ("stage1", "<stage2>")
        for s in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "stage1").mkdir()
    draw_reconstruction(
        MaskedAutoencoder(VIT, MAEConfig(decoder_width=16, decoder_heads=1)),
        make_clips(),
        tmp_path / "stage1" / "reconstruction.png",
    )
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 * 4 and page.count("data:image/png;base64,") == 1
    assert "&lt;stage2&gt;" in page
    assert set(re.findall(r"https?://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}

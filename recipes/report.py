"""A run to look at: `report.html`, with the curves of `metrics.jsonl` and a picture of what is masked and rebuilt.

The page is whole in itself and drawn here, as plain SVG. It is written at every checkpoint and at the end.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from understudy.models.mae import MaskedAutoencoder, draw_masks
from understudy.models.vit import ViTConfig, gather_tokens, to_patches
from understudy.shards.files import write_atomic

PICTURE = "reconstruction.png"
CURVES = (  # key in metrics.jsonl, title, how its values are written, whether the axis starts at 0
    ("loss", "loss", "{:.3g}", False),
    ("top1", "top-1 in training", "{:.0%}", True),
    ("rate", "learning rate", "{:.3g}", True),
    ("samples_per_second", "clips a second", "{:,.5g}", True),
    ("data_share", "share of waiting for data", "{:.1%}", True),
)
WIDE, HIGH, LEFT, TOP, BOTTOM = 300, 168, 52, 30, 24
CAPTION = "What is rebuilt is relative: mean and contrast of each tube are the true ones, and were not guessed."
POINTS = 400  # of a curve; of more rows each is the mean of several
GREY, GAP, MARGIN, SHOWN = 118, 4, 96, 112  # of what is masked; pixels between frames, of captions, of a frame at least


def write_report(out: Path) -> None:
    """Draw `out/metrics.jsonl` and the picture of stage 1, where there is one, into `out/report.html`."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append(row)
    sections: list[str] = []
    for stage, rows in stages.items():
        charts = [
            curve([(row["step"], row[key]) for row in rows if key in row], title, words, zero)
            for key, title, words, zero in CURVES
            if any(key in row for row in rows)
        ]
        last = rows[-1]
        about = f"step {last['step']:,}, loss {last['loss']:.4f}, {last['skipped']:,} clips skipped"
        sections.append(f"<h2>{escape(stage)} <small>{about}</small></h2>\n<div>{''.join(charts)}</div>")
        picture = out / stage / PICTURE
        if picture.exists():
            data = base64.b64encode(picture.read_bytes()).decode()
            sections.append(f'<img alt="original, masked and rebuilt frames" src="data:image/png;base64,{data}">')
            sections.append(f"<p><small>{CAPTION}</small></p>")
    title = escape(f"Run {out.name}")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ font: 14px/1.4 system-ui, sans-serif; color: #1d2733; background: #ffffff }}
body {{ margin: 24px }}
h1 {{ font-size: 18px }}
h2 {{ font-size: 15px; margin: 24px 0 8px }}
small {{ font-weight: 400; color: #5a6673 }}
div {{ display: flex; flex-wrap: wrap; gap: 12px }}
img {{ display: block; margin-top: 12px; max-width: 100% }}
</style></head><body>
<h1>{title}</h1>
{chr(10).join(sections)}
</body></html>
"""
    write_atomic(out / "report.html", page.encode())


def curve(points: Sequence[tuple[float, float]], title: str, words: str, zero: bool) -> str:
    """One curve as an SVG element: (step, value) from left to right, values written as the format `words` says."""
    merged = -(-len(points) // POINTS)
    chunks = [points[i : i + merged] for i in range(0, len(points), merged)]
    xs = [chunk[-1][0] for chunk in chunks]
    ys = [sum(y for _, y in chunk) / len(chunk) for chunk in chunks]
    ticks = nice_ticks(0.0 if zero else min(ys), max(ys))
    low, high = ticks[0], ticks[-1]
    first, last = (0.0, xs[-1]) if len(xs) == 1 else (xs[0], xs[-1])

    def across(x: float) -> float:
        return LEFT + (WIDE - LEFT - 12) * (x - first) / (last - first)

    def up(y: float) -> float:
        return HIGH - BOTTOM - (HIGH - BOTTOM - TOP) * (y - low) / (high - low)

    text = 'font-family="system-ui, sans-serif" font-size="11" fill="#5a6673"'
    marks = [
        f'<line x1="{LEFT}" x2="{WIDE - 12}" y1="{up(t):.1f}" y2="{up(t):.1f}" stroke="#e4e8ec"/>'
        f'<text x="{LEFT - 6}" y="{up(t) + 4:.1f}" text-anchor="end" {text}>{words.format(t)}</text>'
        for t in ticks
    ]
    marks += [
        f'<text x="{across(x):.1f}" y="{HIGH - 6}" text-anchor="{anchor}" {text}>{x:,.0f}</text>'
        for x, anchor in ((first, "start"), (last, "end"))
    ]
    line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(xs, ys))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}">'
        f'<text x="{LEFT}" y="16" {text} font-weight="600">{escape(title)}</text>'
        f'<text x="{WIDE - 12}" y="16" text-anchor="end" {text}>{words.format(ys[-1])}</text>'
        f'{"".join(marks)}<polyline points="{line}" fill="none" stroke="#4878a8" stroke-width="1.5"/>'
        f'<circle cx="{across(xs[-1]):.1f}" cy="{up(ys[-1]):.1f}" r="2.5" fill="#c8440a"/></svg>'
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers, the first at most `low` and the last at least `high`."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / 3))
    step = next(size * k for k in (1, 2, 5, 10) if span / (size * k) <= 4)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [step * k for k in range(first, last + 1)]


def draw_reconstruction(model: MaskedAutoencoder, clips: Tensor, path: Path, frames: int = 6) -> None:
    """Write a picture of clips uint8 (N, 3, T, H, W) as they are, as the encoder sees them, and as they are rebuilt."""
    rebuilt, seen = reconstruct(model, clips)
    kinds = [
        ("original", clips.cpu().numpy()),
        ("masked", seen.cpu().numpy()),
        ("rebuilt", rebuilt.cpu().numpy()),
    ]
    vit = model.encoder.config
    scale = max(1, round(SHOWN / vit.size))
    size, columns = scale * vit.size, [round(t) for t in np.linspace(0, vit.frames - 1, min(frames, vit.frames))]
    block = 3 * (size + GAP) + 3 * GAP
    sheet = Image.new("RGB", (MARGIN + len(columns) * (size + GAP), len(clips) * block), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row in range(len(clips)):
        for line, (name, pictures) in enumerate(kinds):
            y = row * block + line * (size + GAP)
            pen.text((8, y + size // 2 - 8), name, (24, 24, 28), font)
            for column, t in enumerate(columns):
                frame: NDArray[np.uint8] = np.ascontiguousarray(pictures[row, :, t].transpose(1, 2, 0))
                picture = Image.fromarray(frame).resize((size, size), Image.Resampling.NEAREST)
                sheet.paste(picture, (MARGIN + column * (size + GAP), y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Clips with the tokens that were asked for as the model rebuilds them, and with what it does not see in grey; both
    uint8, as `clips`. The decoder's values are relative: mean and deviation of each tube patch are the true ones.
    """
    vit, rows = model.encoder.config, len(clips)
    generator = torch.Generator(clips.device).manual_seed(0)
    visible, asked = draw_masks(rows, vit.grid, model.config, generator)
    predicted: list[Tensor] = []
    # The forward pass gives the loss alone; what its head says is listened to.
    listening = model.head.register_forward_hook(lambda *called: predicted.append(called[2]))
    model.forward(clips, visible, asked, torch.ones(rows, dtype=torch.bool, device=clips.device))
    listening.remove()
    patches = to_patches(clips, vit)
    truth = gather_tokens(patches, asked).float().flatten(3)
    values = predicted[0].float().unflatten(2, (-1, 3)).transpose(2, 3)
    values = values * truth.std(dim=3, keepdim=True) + truth.mean(dim=3, keepdim=True)
    pixels = values.round().clamp(0, 255).byte().unflatten(3, patches.shape[3:])
    each = torch.arange(rows, device=clips.device)[:, None]
    seen, rebuilt = torch.full_like(patches, GREY), torch.full_like(patches, GREY)
    rebuilt[each, asked] = pixels
    for shown in (seen, rebuilt):  # after the rebuilt ones, since running cells may hold what was seen
        shown[each, visible] = gather_tokens(patches, visible)
    return from_patches(rebuilt, vit), from_patches(seen, vit)


def from_patches(patches: Tensor, vit: ViTConfig) -> Tensor:
    """The clips (N, 3, T, H, W) that `to_patches` cut into these."""
    t, h, w = vit.grid
    x = patches.view(-1, t, h, w, 3, vit.tubelet, vit.patch, vit.patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(-1, 3, vit.frames, vit.size, vit.size)

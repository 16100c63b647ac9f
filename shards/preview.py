"""Contact sheets: a corpus at a glance, as one picture or as one HTML page in which the clips play."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.frames import decode_frames
from understudy.shards.manifest import MEMBERS
from understudy.shards.remote import Address
from understudy.shards.tarshard import read_spans

PLAYED_S = 10
GAP = 4
TEXT = 13
INK, FAINT, PAPER = (24, 24, 28), (110, 110, 120), (255, 255, 255)


@dataclass(frozen=True)
class Clip:
    """A sample to show: what it is, and those of its frames that are shown, scaled."""

    class_name: str
    frames: int
    seconds: float
    pictures: list[Image.Image]

    @property
    def caption(self) -> str:
        """How long it is."""
        return f"{self.frames} frames, {self.seconds:.1f} s"


def preview(root: Address, out: Path, *, rows: int, columns: int, height: int, seed: int) -> None:
    """Write a contact sheet of the corpus at `root` to `out`, a .png or .html file.

    Shows `rows` samples, the same number of each class as far as that goes, drawn with `seed`. In a picture each
    is a row of `columns` frames spread over its time; on a page its first ten seconds play at the corpus's rate.
    `height` is of a frame, in pixels. Raises UserError on another ending or a corpus that can't be read.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise UserError(f"{out}: a preview is a .png or a .html file; give it one of these endings")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder for the preview; make it first")
    if rows < 1 or columns < 1 or not 16 <= height <= 2048:
        raise UserError("a preview needs at least 1 row, 1 column, and a height from 16 to 2048 pixels")
    if seed < 0:
        raise UserError(f"seed {seed}: say 0 or more")
    corpus = Corpus.open(root)
    manifest = corpus.manifest
    as_picture = out.suffix.lower() == ".png"
    clips: list[Clip] = []
    for sample in choose_samples(corpus.label, rows, seed):
        count = int(corpus.frames[sample])
        shown = _spread(count, columns) if as_picture else range(min(count, max(1, round(PLAYED_S * manifest.fps))))
        clips.append(_read_clip(corpus, sample, shown, height))
    title = (
        f"{manifest.name}: {manifest.kind}, {manifest.nsamples:,} samples of {len(manifest.classes)} classes, "
        f"{manifest.fps:g} fps"
    )
    if as_picture:
        write_atomic(out, _png(clips, title, height))
    else:
        write_atomic(out, _page(clips, title, manifest.fps, height).encode())


def choose_samples(labels: NDArray[np.int64], count: int, seed: int) -> list[int]:
    """Up to `count` sample numbers, grouped by class: one of every class in turn, at random, until there are enough.

    With fewer samples than classes, the classes are at random too.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    class_rank = generator.permutation(int(labels.max()) + 1)
    seen: dict[int, int] = {}
    turns: list[tuple[int, int, int]] = []
    for sample in shuffled.tolist():
        label = int(labels[sample])
        seen[label] = turn = seen.get(label, -1) + 1
        turns.append((turn, int(class_rank[label]), sample))
    chosen = [sample for _, _, sample in sorted(turns)[:count]]
    return sorted(chosen, key=lambda sample: (int(labels[sample]), sample))


def _read_clip(corpus: Corpus, sample: int, shown: Sequence[int], height: int) -> Clip:
    manifest = corpus.manifest
    payload = [extension for extension in MEMBERS[manifest.codec] if extension != "json"]
    number = int(corpus.shard[sample])
    count = int(corpus.frames[sample])
    try:
        with os.fdopen(corpus.open_shard(number), "rb") as file:
            members = dict(zip(payload, read_spans(file, corpus.spans[sample].tolist())))
        decoded = islice(decode_frames(members, manifest.codec, count), max(shown) + 1)
        pictures = {number: _scaled(frame, height) for number, frame in enumerate(decoded) if number in shown}
    except (OSError, ValueError) as error:
        path = corpus.root / manifest.shards[number].url
        raise UserError(
            f"{path}: sample {corpus.keys[sample]} can't be shown ({error}); run `understudy lint`"
        ) from None
    class_name = manifest.classes[int(corpus.label[sample])]
    return Clip(class_name, count, count / manifest.fps, [pictures[number] for number in shown])


def _spread(frames: int, columns: int) -> list[int]:
    """`columns` frame numbers from the first to the last."""
    return [round(position) for position in np.linspace(0, frames - 1, columns).tolist()]


def _scaled(frame: NDArray[np.uint8], height: int) -> Image.Image:
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)


def _png(clips: Sequence[Clip], title: str, height: int) -> bytes:
    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 2)
    texts = [(font, clip.class_name) for clip in clips] + [(small, clip.caption) for clip in clips]
    caption = max(int(used.getlength(text)) for used, text in texts) + 4 * GAP
    wide = max(sum(picture.width + GAP for picture in clip.pictures) for clip in clips)
    top = 2 * TEXT + 2 * GAP
    width = max(caption + wide, int(font.getlength(title)) + 4 * GAP)
    sheet = Image.new("RGB", (width, top + len(clips) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * GAP, GAP + TEXT // 2), title, INK, font)
    for row, clip in enumerate(clips):
        y = top + row * (height + GAP)
        draw.text((2 * GAP, y + height // 2 - TEXT), clip.class_name, INK, font)
        draw.text((2 * GAP, y + height // 2 + GAP), clip.caption, FAINT, small)
        x = caption
        for picture in clip.pictures:
            sheet.paste(picture, (x, y))
            x += picture.width + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _page(clips: Sequence[Clip], title: str, fps: float, height: int) -> str:
    figures = "\n".join(
        f'<figure><img src="data:image/webp;base64,{base64.b64encode(_animation(clip, fps)).decode()}" '
        f'height="{height}" alt="{html.escape(clip.class_name)}"><figcaption>{html.escape(clip.class_name)}'
        f"<small>{clip.caption}</small></figcaption></figure>"
        for clip in clips
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }}
body {{ margin: 24px }}
h1 {{ font-size: 16px; font-weight: 600 }}
main {{ display: flex; flex-wrap: wrap; gap: 16px }}
figure {{ margin: 0 }}
img {{ display: block; border-radius: 4px }}
figcaption {{ margin-top: 4px }}
small {{ display: block; opacity: .6 }}
</style></head><body>
<h1>{html.escape(title)}</h1>
<main>
{figures}
</main></body></html>
"""


def _animation(clip: Clip, fps: float) -> bytes:
    first, *others = clip.pictures
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=70)
    return buffer.getvalue()

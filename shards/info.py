"""What a corpus holds, in figures and in words."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.shards.kinds import Codec, Kind
from understudy.shards.manifest import Manifest
from understudy.shards.remote import Address


@dataclass(frozen=True)
class Info:
    """The figures of a corpus: `size` is of its shards and `clip_size` a sample's share of it, both in bytes."""

    name: str
    kind: Kind
    licence: str
    samples: int
    frames: int
    hours: float
    shards: int
    size: int
    clip_size: int
    refused: int
    codec: Codec
    fps: float
    short_side: int
    classes: dict[str, int]
    digest: str
    made_by: str


def describe(root: Address) -> Info:
    """The figures of the corpus at `root`, from its manifest alone. Raises UserError where there is none."""
    manifest = Manifest.load(root)
    size = sum(shard.filesize for shard in manifest.shards)
    return Info(
        name=manifest.name,
        kind=manifest.kind,
        licence=manifest.licence,
        samples=manifest.nsamples,
        frames=manifest.frames,
        hours=manifest.frames / manifest.fps / 3600,
        shards=len(manifest.shards),
        size=size,
        clip_size=round(size / max(manifest.nsamples, 1)),
        refused=manifest.refused,
        codec=manifest.codec,
        fps=manifest.fps,
        short_side=manifest.short_side,
        classes=dict(zip(manifest.classes, manifest.per_class)),
        digest=manifest.digest,
        made_by=f"{manifest.tool} {manifest.tool_version}",
    )


def as_text(info: Info) -> str:
    """A few lines for people, and one for each class."""
    shards = f"{info.shards} shard{'s' * (info.shards != 1)}"
    lines = [
        f"{info.name}: {info.kind}, licence {info.licence}",
        f"  {info.samples:,} samples of {len(info.classes)} classes, {info.frames:,} frames, {_duration(info.hours)}",
        f"  {_bytes(info.size)} in {shards}, {_bytes(info.clip_size)} a clip, {info.refused} refused",
        f"  {info.codec} at {info.fps:g} fps, short side {info.short_side}",
        f"  digest {info.digest}, made by {info.made_by}",
        "",
    ]
    width = len(f"{max(info.classes.values(), default=0):,}")
    lines += [f"  {count:{width},}  {name}" for name, count in info.classes.items()]
    return "\n".join(lines)


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


def _bytes(count: int) -> str:
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"

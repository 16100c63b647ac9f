"""An audit: detectors over every clip and over canaries, and what follows from it. docs/audit.md explains it.

Reading clips is `audit_clips.py`, the bounds `bounds.py`, the checks beyond pixels `check*.py`, the page `report.py`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from understudy.privacy.audit_clips import Clip, Footage, Picture, Shape, clip_frames
from understudy.privacy.bounds import Clips, Residual, residual
from understudy.privacy.detect import Detector, Hit
from understudy.privacy.detectors import check_weights, load_detector
from understudy.shards.sources import RefusedError
from understudy.shards.workers import Beat, Lost, confined_map

CHUNK = 32  # frames that a detector gets at a time
PATIENCE_S = 600.0
SOMEBODY = ("person", "face")


@dataclass(frozen=True)
class AuditConfig:
    """How an audit looks. `detectors` are as in `load_detector`; of `every` n frames one is looked at, drawn at random;
    `clips` are drawn at random, 0 for all; `confidence` is that of the bounds.
    """

    detectors: tuple[str, ...]
    tiles: tuple[int, ...] = (1, 2)
    every: int = 1
    clips: int = 0
    confidence: float = 0.95
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Seen:
    """One thing that a detector saw in a clip: the frame's number, who saw it, and the hit."""

    frame: int
    detector: str
    hit: Hit


@dataclass(frozen=True)
class Looked:
    """A clip that was looked at: frames looked at, how many of them have a hit of each kind (`somebody`: person or
    face) and `by NAME` of a detector, for what share of the clip's frames (0..1) those stand, and the strongest hits.
    `unread` says why a clip, without frames then, could not be read.
    """

    clip: Clip
    frames: int
    with_hit: dict[str, int] = field(default_factory=dict[str, int])
    shares: dict[str, float] = field(default_factory=dict[str, float])
    strongest: tuple[Seen, ...] = ()
    unread: str = ""

    def share(self, what: str) -> float:
        """Share of the frames with such a hit. A clip that nobody could look at counts as full of people, a canary as
        one that nobody saw: either makes the bound larger.
        """
        if not self.frames:
            return 0.0 if self.clip.group else 1.0
        return self.shares.get(what, 0.0)


def look_at_all(
    clips: Sequence[Clip], shape: Shape, config: AuditConfig, *, workers: int, progress: bool = True
) -> list[Looked]:
    """Look at every clip, in `workers` processes; with 0 in this one. The clips are taken in a random order, so that
    canaries lie among the others.
    """
    order = random.Random(config.seed).sample(range(len(clips)), len(clips))
    work = partial(_look, shape, config)
    results = confined_map(work, (clips[index] for index in order), workers=workers, patience_s=PATIENCE_S)
    bar = tqdm(total=len(clips), desc="audit", unit="clip", disable=None if progress else True)
    looked: dict[int, Looked] = {}
    frames = 0
    with bar:
        for index, result in zip(order, results):
            if isinstance(result, Lost):
                result = Looked(clips[index], 0, unread=result.reason)
            looked[index] = result
            frames += result.frames
            bar.set_postfix_str(f"{frames} frames", refresh=False)
            bar.update()
    return [looked[index] for index in range(len(clips))]


@cache
def load_detectors(config: AuditConfig) -> list[Detector]:
    """The detectors of a config, loaded once a process. Raises UserError that tells all weights that are missing."""
    check_weights(config.detectors)
    return [load_detector(name, tiles=config.tiles, device=config.device) for name in config.detectors]


def _look(shape: Shape, config: AuditConfig, clip: Clip, beat: Beat) -> Looked:
    """Runs in a worker process."""
    return look(clip, clip_frames(clip, shape), load_detectors(config), config, beat)


def look(
    clip: Clip, frames: Iterator[Picture], detectors: Sequence[Detector], config: AuditConfig, beat: Beat
) -> Looked:
    """Put the `frames` of a clip before the detectors, one of every `config.every`."""
    chosen = _chosen(frames, config.every, random.Random(f"{config.seed} {clip.key}"))
    found: defaultdict[str, set[int]] = defaultdict(set)
    seen: list[Seen] = []
    stands_for: dict[int, int] = {}
    try:
        while chunk := list(islice(chosen, CHUNK)):
            pictures = np.stack([frame for _, frame, _ in chunk])
            stands_for |= {number: count for number, _, count in chunk}
            for detector in detectors:
                for (number, _, _), hits in zip(chunk, detector(pictures)):
                    if hits:
                        found[detector.what].add(number)
                        found[f"by {detector.name}"].add(number)
                        seen.append(Seen(number, detector.name, max(hits, key=lambda hit: hit.score)))
                beat()
    except (RefusedError, ValueError, OSError) as error:
        return Looked(clip, 0, unread=str(error) or "it is damaged")
    found["somebody"] = set().union(*(found[what] for what in SOMEBODY))
    seen.sort(key=lambda one: (one.hit.what not in SOMEBODY, -one.hit.score))
    hit = {what: numbers for what, numbers in found.items() if numbers}
    total = sum(stands_for.values())
    return Looked(
        clip,
        len(stands_for),
        {what: len(numbers) for what, numbers in hit.items()},
        {what: sum(stands_for[number] for number in numbers) / total for what, numbers in hit.items()},
        tuple(seen[:8]),
    )


def _chosen(frames: Iterator[Picture], every: int, draw: random.Random) -> Iterator[tuple[int, Picture, int]]:
    """Of every so many frames in a row one, each as likely as the others: its number, picture and how many it stands
    for, fewer at the end. So weighted, the share of those with a hit is on average that of all; it would not be with a
    fixed step, as then there are more of some than of others in clips that end in between.
    """
    numbered = enumerate(frames)
    while first := next(numbered, None):
        (number, frame), count = first, 1
        for later in islice(numbered, every - 1):
            count += 1
            if draw.randrange(count) == 0:
                number, frame = later
        yield number, frame, count


def choose_clips(footage: Footage, config: AuditConfig) -> list[Clip]:
    """All clips, or as many as the config asks for, drawn at random without replacement."""
    if not 0 < config.clips < len(footage.clips):
        return list(footage.clips)
    chosen = sorted(random.Random(config.seed).sample(range(len(footage.clips)), config.clips))
    return [footage.clips[index] for index in chosen]


def conclude(
    footage: Footage, looked: Sequence[Looked], canaries: Sequence[Looked], shape: Shape, config: AuditConfig
) -> dict[str, Any]:
    """The part of `audit.json` that is about pixels: what was looked at and how, what was found, and the bounds."""
    groups: defaultdict[str, list[Looked]] = defaultdict(list)
    for canary in canaries:
        groups[canary.clip.group].append(canary)
    # An unread clip has share 1, so it counts as found in both bounds, and an unread canary as missed.
    alpha = 1 - config.confidence
    shares = _clips(looked)
    seen = {group: _clips(members) for group, members in groups.items()}
    frames = residual(shares, seen, alpha)
    clips = residual(replace(shares, values=[float(share > 0) for share in shares.values]), seen, alpha)
    if config.every > 1:  # the one frame of a clip that shows somebody may not have been among those looked at
        clips = replace(clips, bound=None, least=None)
    detectors = load_detectors(config)
    read = [one for one in looked if one.frames]

    def per_1000(what: str) -> float:
        return 1000 * float(np.mean([one.share(what) for one in read])) if read else 0.0

    return {
        "tool": f"understudy {version('understudy')}",
        "digest": footage.digest,
        "confidence": config.confidence,
        "looked_at": {
            "clips": len(looked),
            "of_clips": len(footage.clips),
            "recordings": len(set(shares.recordings)),
            "frames": sum(one.frames for one in looked),
            "every": config.every,
            "fps": shape.fps,
            "short_side": shape.short_side,
            "tiles": list(config.tiles),
            "seed": config.seed,
            "unread": sum(not one.frames for one in looked),
            "passed_over": len(footage.passed_over),
        },
        "detectors": [
            {
                "name": detector.name,
                "what": detector.what,
                "models": list(detector.models),
                "licence": detector.licence,
                "frames_per_1000": per_1000(f"by {detector.name}"),
                "clips": sum(f"by {detector.name}" in one.with_hit for one in looked),
            }
            for detector in detectors
        ],
        "canaries": {
            group: {
                "clips": len(part.values),
                "found": sum(share > 0 for share in part.values),
                "frames_seen": float(np.mean(part.values)),
                "unread": sum(not one.frames for one in groups[group]),
            }
            for group, part in sorted(seen.items())
        },
        "clips": asdict(clips),
        "frames": {**asdict(frames), "found_per_1000": 1000 * frames.found, "bound_per_1000": _thousand(frames)},
        "faces_per_1000": per_1000("face"),
        "text_per_1000": per_1000("text"),
        "worst": [
            {
                "key": one.clip.key,
                "frames": one.frames,
                "with_somebody": one.with_hit.get("somebody", 0),
                "unread": one.unread,
            }
            for one in worst(looked, 100)
        ],
    }


def _clips(looked: Sequence[Looked]) -> Clips:
    recordings = [one.clip.recording or f"the clip {one.clip.key}" for one in looked]
    return Clips([one.share("somebody") for one in looked], recordings)


def _thousand(residual: Residual) -> float | None:
    return None if residual.bound is None else 1000 * residual.bound


def worst(looked: Sequence[Looked], count: int) -> list[Looked]:
    """The clips with somebody in the most of their frames, then by how sure a detector was; none without a hit."""

    def badness(one: Looked) -> tuple[float, float]:
        return one.share("somebody"), max((s.hit.score for s in one.strongest if s.hit.what in SOMEBODY), default=0.0)

    return sorted((one for one in looked if one.share("somebody") > 0), key=badness, reverse=True)[:count]

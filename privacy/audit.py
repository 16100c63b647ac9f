"""An audit: detectors over every clip and over canaries, and what follows from it. docs/audit.md explains it.

Reading clips is `audit_clips.py`, the bounds `bounds.py`, the checks beyond pixels `check*.py`, the page `report.py`.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
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
from understudy.privacy.removal_record import models_of
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import read_address
from understudy.shards.remote import Address, MissingError
from understudy.shards.sources import RefusedError
from understudy.shards.tarshard import read_entries, read_spans
from understudy.shards.workers import Beat, Lost, confined_map

CHUNK = 32  # frames that a detector gets at a time
PATIENCE_S = 600.0
SOMEBODY = ("person", "face")
REMOVAL = "removal.json"  # beside videos out of which people were removed


@dataclass(frozen=True)
class AuditConfig:
    """How an audit looks. `detectors` are as in `load_detector`; `every` n-th frame is looked at, from a random one of
    the first n on; `clips` are drawn at random, 0 for all; `confidence` is that of the bounds.
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
    face) and `by NAME` of a detector, and the strongest hits. `unread` says why a clip, without frames then, could not
    be read.
    """

    clip: Clip
    frames: int
    with_hit: dict[str, int]
    strongest: tuple[Seen, ...] = ()
    unread: str = ""

    def share(self, what: str) -> float:
        """Share of the frames with such a hit. A clip that nobody could look at counts as full of people."""
        return self.with_hit.get(what, 0) / self.frames if self.frames else 1.0


def check_independent(detectors: Sequence[Detector], used: Iterable[str]) -> None:
    """Raise UserError where a detector has weights in common with the removal, as it would see what that saw."""
    removed_with = set(used)
    for detector in detectors:
        shared = removed_with & set(detector.models)
        if shared:
            raise UserError(
                f"detector {detector.name}: its weights ({', '.join(sorted(shared))}) took part in the removal, "
                "so it is blind to what that missed; name others with --detectors"
            )


def removal_weights(root: Address, corpus: Corpus | None) -> set[str]:
    """Names of the weights that had a say in the removal, segmenter and gate: the list `models` of the removal
    record, which is in `removal.json` beside videos and in every KEY.json of a corpus.
    """
    used: set[str] = set()
    with suppress(FileNotFoundError, MissingError):
        text = read_address(root / REMOVAL)
        try:
            used.update(models_of(json.loads(text)["removal"]))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError(
                f"{root / REMOVAL}: not as remove-people writes it, so nobody knows which weights took part; "
                "remove people again, or move it away"
            ) from None
    if corpus is None:
        return used
    for number in range(len(corpus.manifest.shards)):
        with os.fdopen(corpus.open_shard(number), "rb") as file:
            try:
                sidecars = [entry for entry in read_entries(file) if entry.extension == "json"]
            except ValueError as error:
                place = root / corpus.manifest.shards[number].url
                raise UserError(f"{place}: no shard of ours ({error}); run: understudy lint {root}") from None
            for text in read_spans(file, [(entry.offset, entry.size) for entry in sidecars]):
                with suppress(ValueError, AttributeError, RecursionError):  # check_shards.py tells of it
                    used.update(models_of(json.loads(text).get("removal")))
    return used


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
                result = Looked(clips[index], 0, {}, unread=result.reason)
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
    """Put the `frames` of a clip before the detectors, every `config.every`-th of them."""
    chosen = _chosen(frames, config.every, random.Random(f"{config.seed} {clip.key}"))
    found: defaultdict[str, set[int]] = defaultdict(set)
    seen: list[Seen] = []
    count = 0
    try:
        while chunk := list(islice(chosen, CHUNK)):
            pictures = np.stack([frame for _, frame in chunk])
            count += len(chunk)
            for detector in detectors:
                for (number, _), hits in zip(chunk, detector(pictures)):
                    if hits:
                        found[detector.what].add(number)
                        found[f"by {detector.name}"].add(number)
                        seen.append(Seen(number, detector.name, max(hits, key=lambda hit: hit.score)))
                beat()
    except (RefusedError, ValueError, OSError) as error:
        return Looked(clip, 0, {}, unread=str(error))
    found["somebody"] = set().union(*(found[what] for what in SOMEBODY))
    seen.sort(key=lambda one: (one.hit.what not in SOMEBODY, -one.hit.score))
    return Looked(clip, count, {what: len(numbers) for what, numbers in found.items() if numbers}, tuple(seen[:8]))


def _chosen(frames: Iterator[Picture], every: int, draw: random.Random) -> Iterator[tuple[int, Picture]]:
    """Every `every`-th frame with its number, from a random one of the first so many on; of a clip that ends before
    that, one of its frames, each as likely as the others.
    """
    first = draw.randrange(every)
    spare: tuple[int, Picture] | None = None
    for number, frame in enumerate(frames):
        if number >= first:
            spare = None
            if (number - first) % every == 0:
                yield number, frame
        elif draw.randrange(number + 1) == 0:
            spare = number, frame
    if spare is not None:
        yield spare


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
    # An unread clip has share 1, so it counts as found in both bounds.
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

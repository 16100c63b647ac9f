"""The whole of an audit, from a corpus to `audit.json` and `audit.html`."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from understudy.privacy.audit import (
    PATIENCE_S,
    AuditConfig,
    Looked,
    choose_clips,
    conclude,
    load_detectors,
    look_at_all,
    worst,
)
from understudy.privacy.audit_clips import (
    Clip,
    Footage,
    Shape,
    check_there,
    clip_frames,
    clip_holes,
    open_footage,
    pictures_of,
)
from understudy.privacy.canary import canary_clips
from understudy.privacy.check_shards import PAGE, SILENT_KEY, check_footage, findings_beside
from understudy.privacy.independent import check_independent, removal_weights
from understudy.privacy.leak import BY_OUTLINES, Leak, artefact_features, outline_features, probe
from understudy.privacy.quality import packed_quality
from understudy.privacy.report import Shot, page
from understudy.shards.audited import save_audit
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.manifest import MANIFEST, Manifest
from understudy.shards.remote import Address
from understudy.shards.sources import RefusedError
from understudy.shards.workers import Beat, Lost, confined_map

PROBED_FRAMES = 256  # of a clip, from its start on
MOST_PROBED = 20_000  # clips; the kernel of more would not fit into memory
WORST_SHOWN = 24
TOLD = 5  # names of files in a line


def run_audit(
    root: Address,
    out: Path,
    config: AuditConfig,
    *,
    canaries: Path | None = None,
    halves: bool = False,
    names: Sequence[str] = (),
    attribute: Mapping[str, str] | None = None,
    fps: float = 6.0,
    short_side: int = 360,
    workers: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Audit what lies at `root`, write `audit.json` into the folder `out` and the page to `page_place`, and return
    what the page says: as `audit.json`, with the names of files.

    `attribute` maps keys to a value each; `fps` and `short_side` are for video that is not packed. Raises UserError
    where there is nothing to audit, weights are missing, or a detector took part in the removal.
    """
    check_there(root)
    if not out.is_dir():
        raise UserError(f"{out}: no such folder for the audit; make it first")
    place = page_place(root, out)
    if not os.access(place.parent, os.W_OK):
        raise UserError(f"{place.parent}: the page can't be written there; name a folder with --out")
    if isinstance(root, Path):
        _tell_beside(root)
    detectors = load_detectors(config)
    footage = open_footage(root)
    removed_with = removal_weights(root, footage.corpus)
    check_independent(detectors, removed_with)
    shape = Shape(fps, short_side)
    if footage.corpus:
        manifest = footage.corpus.manifest
        quality = packed_quality(footage.corpus) if canaries else Shape.quality
        shape = Shape(manifest.fps, manifest.short_side, manifest.codec, quality)
    clips = choose_clips(footage, config)
    known = canary_clips(canaries, halves=halves) if canaries else []
    # What can be wrong is found before hours of looking.
    _check_attribute(footage, attribute)
    _check_canaries(known, shape, workers)
    findings = check_footage(root, footage.corpus, names, progress=progress)
    looked = look_at_all([*clips, *known], shape, config, workers=workers, progress=progress)
    own, of_canaries = looked[: len(clips)], looked[len(clips) :]
    body = {
        "name": footage.corpus.manifest.name if footage.corpus else root.name,
        **conclude(footage, own, of_canaries, shape, config),
        "removed_with": sorted(removed_with),
        "findings": findings.rows(),
        "names": {"sought": sum(bool(name.strip()) for name in names), "too_short": findings.names_too_short},
        "passed_over": footage.passed_over,
        "leaks": _leaks(footage, clips, shape, attribute, workers, progress),
    }
    save_audit(out, publishable(body))
    shots = [shot for one in worst(own, WORST_SHOWN) if (shot := _shot(one, shape)) is not None]
    write_atomic(place, page(body, shots).encode())
    return body


def _tell_beside(root: Path) -> None:
    """Say at once what will be a finding, rather than after hours of looking: it makes a second audit necessary."""
    names = [name for name, _ in findings_beside(root, Manifest.load(root) if (root / MANIFEST).exists() else None)]
    if names:
        more = f" and {len(names) - TOLD:,} more" if len(names) > TOLD else ""
        print(
            f"understudy: {', '.join(names[:TOLD])}{more} in {root} will be a finding, being not for publishing; "
            "move it out now",
            file=sys.stderr,
        )


def page_place(root: Address, out: Path) -> Path:
    """Where the page goes: into `out`, but beside what is audited if that is the same, as it shows frames."""
    if isinstance(root, Path) and out.resolve().is_relative_to(root.resolve()):
        return root.resolve().with_name(f"{root.resolve().name}-{PAGE}")
    return out / PAGE


def publishable(body: Mapping[str, Any]) -> dict[str, Any]:
    """What of an audit names no file: of keys those that are keyed hashes or numbers, of findings kind and count."""
    told = {name: value for name, value in body.items() if name != "passed_over"}
    told["findings"] = [{"what": row["what"], "count": row["count"]} for row in body["findings"]]
    told["worst"] = [
        {**row, "key": row["key"] if SILENT_KEY.fullmatch(row["key"]) else None, "unread": bool(row["unread"])}
        for row in body["worst"]
    ]
    return told


def _check_attribute(footage: Footage, attribute: Mapping[str, str] | None) -> None:
    if attribute is None:
        return
    if footage.corpus is None:
        raise UserError("--attribute: only a corpus has the keys that it is about; leave it out")
    if attribute.keys().isdisjoint(footage.corpus.keys):
        raise UserError("--attribute: none of its keys is in the corpus")


def _check_canaries(clips: Sequence[Clip], shape: Shape, workers: int) -> None:
    results = confined_map(partial(_unreadable, shape), clips, workers=workers, patience_s=PATIENCE_S)
    for clip, reason in zip(clips, results):
        if reason:
            said = reason.reason if isinstance(reason, Lost) else reason
            raise UserError(f"{clip.key}: can't be read ({said}); take it out of the canaries")


def _unreadable(shape: Shape, clip: Clip, beat: Beat) -> str:
    """Runs in a worker process."""
    try:
        for _ in clip_frames(clip, shape):
            beat()
    except (RefusedError, ValueError, OSError) as error:
        return str(error) or "it is damaged"
    return ""


def read_names(path: Path) -> list[str]:
    """The lines of a file but for empty ones. Raises UserError where it can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")  # names need not be UTF-8
    except OSError as error:
        raise UserError(f"{path}: can't read the names ({error.strerror})") from None
    return [line for line in text.splitlines() if line.strip()]


def read_attribute(path: Path) -> dict[str, str]:
    """The `KEY,VALUE` lines of a file."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows or any(len(row) != 2 for row in rows):
        raise UserError(f"{path}: not all lines are of the form KEY,VALUE")
    return {key: value.strip() for key, value in rows}


def _shot(one: Looked, shape: Shape) -> Shot | None:
    """The frame of a clip in which a detector was surest, with the hits in it."""
    if not one.strongest:
        return None
    number = one.strongest[0].frame
    picture = pictures_of(one.clip, shape, [number]).get(number)
    if picture is None:
        return None
    return Shot(one, picture, [seen for seen in one.strongest if seen.frame == number])


def _leaks(
    footage: Footage,
    clips: Sequence[Clip],
    shape: Shape,
    attribute: Mapping[str, str] | None,
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """What the traces of filling tell of the label and of the attribute; None each where there is too little."""
    if footage.corpus is None:
        return {}
    corpus, probed = footage.corpus, clips[:MOST_PROBED]
    work = partial(_features, shape)
    results = confined_map(work, probed, workers=workers, patience_s=PATIENCE_S)
    bar = tqdm(results, total=len(probed), desc="leak", unit="clip", disable=None if progress else True)
    rows = [(clip, found) for clip, found in zip(probed, bar) if not isinstance(found, Lost)]

    def told(kind: int, values: Mapping[str, object]) -> Leak | None:
        """How well features of that kind tell the values of keys."""
        known = [(clip, row) for clip, found in rows if clip.key in values and (row := found[kind]) is not None]
        if not known:
            return None
        groups = corpus.group[[clip.number for clip, _ in known]].tolist()
        return probe(np.stack([row for _, row in known]), [values[clip.key] for clip, _ in known], groups)

    labels = dict(zip(corpus.keys, corpus.label.tolist()))
    leaks = {"action": told(0, labels)}
    if attribute is not None:
        leaks["attribute"] = told(0, attribute)
    if any(outlines is not None for _, (_, outlines) in rows):
        leaks[f"action{BY_OUTLINES}"] = told(1, labels)
        if attribute is not None:
            leaks[f"attribute{BY_OUTLINES}"] = told(1, attribute)
    return {name: None if leak is None else _told(leak) for name, leak in leaks.items()}


def _told(leak: Leak) -> dict[str, float]:
    return {**asdict(leak), "over_chance": leak.over_chance}


def _features(shape: Shape, clip: Clip, beat: Beat) -> tuple[np.ndarray, np.ndarray | None] | Lost:
    """Features of a clip's traces, and of the outlines of its holes where they were kept. Runs in a worker process."""
    try:
        holes = clip_holes(clip)
        outlines = None if holes is None else outline_features(holes[:PROBED_FRAMES])
        return artefact_features(islice(clip_frames(clip, shape), PROBED_FRAMES)), outlines
    except (RefusedError, ValueError, OSError) as error:
        return Lost(str(error))

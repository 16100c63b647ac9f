"""The whole of an audit, from a corpus to `audit.json` and `audit.html`."""

from __future__ import annotations

import csv
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
    check_independent,
    choose_clips,
    conclude,
    load_detectors,
    look_at_all,
    removal_weights,
    worst,
)
from understudy.privacy.audit_clips import Clip, Footage, Shape, clip_frames, open_footage, pictures_of
from understudy.privacy.canary import canary_clips
from understudy.privacy.check_shards import check_footage
from understudy.privacy.leak import Leak, artefact_features, probe
from understudy.privacy.report import Shot, page
from understudy.shards.audited import save_audit
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.remote import Address
from understudy.shards.sources import RefusedError
from understudy.shards.workers import Beat, Lost, confined_map

PROBED_FRAMES = 256  # of a clip, from its start on
MOST_PROBED = 20_000  # clips; the kernel of more would not fit into memory
WORST_SHOWN = 24


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
    """Audit what lies at `root`, write the results into the folder `out` and return what `audit.json` says.

    `attribute` maps keys to a value each; `fps` and `short_side` are for video that is not packed. Raises UserError
    where there is nothing to audit, weights are missing, or a detector took part in the removal.
    """
    if not out.is_dir():
        raise UserError(f"{out}: no such folder for the audit; make it first")
    detectors = load_detectors(config)
    footage = open_footage(root)
    removed_with = removal_weights(root, footage.corpus)
    check_independent(detectors, removed_with)
    shape = Shape(fps, short_side)
    if footage.corpus:
        manifest = footage.corpus.manifest
        shape = Shape(manifest.fps, manifest.short_side, manifest.codec)
    clips = choose_clips(footage, config)
    known = canary_clips(canaries, halves=halves) if canaries else []
    looked = look_at_all([*clips, *known], shape, config, workers=workers, progress=progress)
    own, of_canaries = looked[: len(clips)], looked[len(clips) :]
    findings = check_footage(root, footage.corpus, names, progress=progress)
    body = {
        "name": footage.corpus.manifest.name if footage.corpus else root.name,
        **conclude(footage, own, of_canaries, config),
        "removed_with": sorted(removed_with),
        "findings": findings.rows(),
        "leaks": _leaks(footage, clips, shape, attribute, workers, progress),
    }
    save_audit(out, body)
    shots = [shot for one in worst(own, WORST_SHOWN) if (shot := _shot(one, shape)) is not None]
    write_atomic(out / "audit.html", page(body, shots).encode())
    return body


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
    rows = [(clip, features) for clip, features in zip(probed, bar) if isinstance(features, np.ndarray)]
    if not rows:
        return {}
    features = np.stack([row for _, row in rows])
    numbers = [clip.number for clip, _ in rows]
    groups = corpus.group[numbers].tolist()
    leaks = {"action": probe(features, corpus.label[numbers].tolist(), groups)}
    if attribute is not None:
        known = [index for index, (clip, _) in enumerate(rows) if clip.key in attribute]
        if not known:
            raise UserError("--attribute: none of its keys is in the corpus")
        values = [attribute[rows[index][0].key] for index in known]
        leaks["attribute"] = probe(features[known], values, [groups[index] for index in known])
    return {name: None if leak is None else _told(leak) for name, leak in leaks.items()}


def _told(leak: Leak) -> dict[str, float]:
    return {**asdict(leak), "over_chance": leak.over_chance}


def _features(shape: Shape, clip: Clip, beat: Beat) -> np.ndarray | Lost:
    """Runs in a worker process."""
    try:
        return artefact_features(islice(clip_frames(clip, shape), PROBED_FRAMES))
    except (RefusedError, ValueError, OSError) as error:
        return Lost(str(error))

"""Removing people from many videos: in parallel, resumable, with a record of what was kept and why the rest was not.

One video is the business of `remove.py`, the lists are of `removal_record.py`. Packing straight into a corpus goes
through `read_without_people`.
"""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from understudy.privacy.detect import Detector
from understudy.privacy.detectors import check_weights, load_detector
from understudy.privacy.fill import Filler, load_filler
from understudy.privacy.opencv import opencv
from understudy.privacy.removal_record import (
    HOLES,
    RECORD,
    Clip,
    Summary,
    add_to_list,
    begin_list,
    delete_unlisted,
    fingerprint,
    locked,
    remember,
    staged,
    summarise,
    write_list,
)
from understudy.privacy.remove import Limits, Removed, Settings, Tally, remove_people
from understudy.privacy.segment import Segmenter
from understudy.privacy.segmenters import MaskFiles, Name, Recheck, load_segmenter
from understudy.privacy.sheet import Sheet
from understudy.privacy.weights import weights_digest
from understudy.shards.encode import encode
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.ingest import Shape, native, read_numbered, read_video
from understudy.shards.keys import sample_key
from understudy.shards.sources import RefusedError, Source
from understudy.shards.workers import Beat, Lost, confined_map

QUALITY = 98  # of the videos written: what is packed from them is compressed once more
PATIENCE_S = 600.0  # for a batch of frames, or for filling a shot


@dataclass(frozen=True)
class Removal:
    """Everything that decides how people are removed and what is kept; picklable, for worker processes."""

    segmenter: Name = "mediapipe"
    weights: Path | None = None
    masks: Path | None = None
    device: str = "cpu"
    filler: str = "background"
    settings: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=Limits)
    gate: tuple[str, ...] = ()
    keep_holes: bool = False
    """Say of every frame where it was filled in."""


def remove_from_all(
    sources: Sequence[Source],
    classes: Sequence[str],
    out: Path,
    removal: Removal,
    secret: bytes,
    *,
    fps: float | None = None,
    sheets: Path | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Summary:
    """Write each source without its people as `out/CLASS/KEY.mp4`, at its own size and rate (or at `fps`).

    KEY is the keyed hash of the source's id, so that names of people or places in file names end here. Sources whose
    people can't be removed safely are left out, with the reason in `removal.jsonl`. Called again after an
    interruption it does what is missing, with the same result, and again what was changed: a video, its masks or its
    class. Videos that it made before of what is not among the sources any more are deleted. `sheets` is a folder for
    pictures of before, mask and after. Raises UserError where `out` holds something else.
    """
    tools(removal)  # so that what is missing is said here, not by every worker
    for name in classes:
        if "/" in name or name.startswith("."):
            raise UserError(f"class {name!r} can't be the name of a folder; rename it")
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "removal": describe(removal),
        "fps": fps,
        "keep_holes": removal.keep_holes,
        "secret": sample_key(secret, "understudy"),
        "weights": None if removal.weights is None else weights_digest(removal.weights),
        "masks": None if removal.masks is None else sample_key(secret, str(removal.masks.resolve())),
    }
    with locked(out):
        remember(out, record)
        given = {source.id: source for source in sources}

        def valid(clip: Clip) -> bool:
            source = given.get(clip.path)
            if source is None:  # its video is deleted at the end
                return True
            moved = clip.out is not None and clip.out.split("/")[0] != classes[source.label]
            return clip.label == source.label and not moved and clip.made_of == _made_of(source, removal)

        done = begin_list(out, valid)
        work = functools.partial(_remove_source, tuple(classes), out, removal, secret, fps, sheets)
        missing = [source for source in sources if source.id not in done]
        results = confined_map(work, missing, workers=workers, patience_s=PATIENCE_S)
        bar = tqdm(
            total=len(sources),
            initial=len(sources) - len(missing),
            desc="remove people",
            unit="clip",
            disable=None if progress else True,
        )
        with bar, closing(results):
            for source, result in zip(missing, results):
                if isinstance(result, Lost):
                    made_of = _made_of(source, removal)
                    result = Clip(source.id, source.label, "refused", made_of, result.reason)
                done[source.id] = result
                add_to_list(out, result)
                bar.set_postfix_str(f"{sum(clip.outcome != 'kept' for clip in done.values())} left out", refresh=False)
                bar.update()
        listed = [done[source.id] for source in sorted(sources, key=lambda source: source.id)]
        write_list(out, listed)
        delete_unlisted(out, listed)
        summary = summarise(listed)
        finished = {**record, "classes": list(classes), "counts": asdict(summary)}
        write_atomic(out / RECORD, json.dumps(finished, indent=1).encode())
    return summary


def read_without_people(
    source: Source, *, fps: float, short_side: int, removal: Removal
) -> Iterator[NDArray[np.uint8]]:
    """As `read_video`, but without the people, who are removed at the source's own size. With `keep_holes` the frames
    have a fourth channel, 255 where they were filled in.

    Raises RefusedError, possibly after all frames, where they can't be removed safely: use none of them then.
    """
    tally = Tally()
    for shot in _shots(source, fps, removal, tally, lambda: None):
        height, width = shot.frames.shape[1:3]
        shape = Shape.fit(width / height, short_side)
        for frame, hole in zip(shot.frames, shot.holes):
            if removal.keep_holes:
                frame = np.dstack([frame, hole * np.uint8(255)])
            yield _resized(frame, shape).copy()
        shot = frame = hole = None  # they are large, and the next ones take as much again
    reason = tally.why_dropped(removal.limits)
    if reason:
        raise RefusedError(reason)


def read_with_holes(source: Source, *, fps: float, short_side: int, folder: Path) -> Iterator[NDArray[np.uint8]]:
    """As `read_video`, of what `remove_from_all` wrote into `folder` with `keep_holes`, with a fourth channel that is
    255 where a frame was filled in. Raises RefusedError as well where that is not there or of another length.
    """
    masks = folder / HOLES / source.id
    if not masks.is_file():
        raise RefusedError(f"where it was filled in is not in {HOLES}")
    pictures = read_video(source, fps=fps, short_side=short_side)
    masked = read_video(replace(source, path=masks), fps=fps, short_side=short_side)
    for frame, mask in zip_longest(pictures, masked):
        if frame is None or mask is None or frame.shape != mask.shape:
            raise RefusedError(f"its video in {HOLES} is not its own")
        yield np.dstack([frame, np.where(mask[..., 0] > 127, np.uint8(255), np.uint8(0))])


def describe(removal: Removal) -> dict[str, Any]:
    """How people are removed, for the `removal` of KEY.json: an audit reads in `models` what it must not use again."""
    segment, _, gate = tools(removal)
    own = [] if segment is None else list(segment.models)
    return {
        "tool": "understudy",
        "version": version("understudy"),
        "segmenter": "masks" if segment is None else segment.name,
        "licence": "of the masks' owner" if segment is None else segment.licence,
        "models": sorted({*own, *(model for detector in gate for model in detector.models)}),
        "filler": removal.filler,
        "gate": [detector.name for detector in gate],
        "settings": asdict(removal.settings),
        "limits": asdict(removal.limits),
    }


@functools.cache
def tools(removal: Removal) -> tuple[Segmenter | None, Filler, tuple[Detector, ...]]:
    """Segmenter (None where masks are given), filler and gate, loaded once a process."""
    opencv()
    if removal.masks is not None and not removal.masks.is_dir():
        raise UserError(f"{removal.masks}: no such folder; masks are FOLDER/SOURCE/000000.png and so on")
    segment = None if removal.masks else load_segmenter(removal.segmenter, removal.weights, removal.device)
    again = () if segment is None else (Recheck(segment),)
    check_weights(removal.gate)
    gate = tuple(load_detector(spec, device=removal.device) for spec in removal.gate)
    return segment, load_filler(removal.filler), (*again, *gate)


def _masks_of(source: Source, masks: Path) -> Path:
    return masks / Path(source.id).with_suffix("")


def _made_of(source: Source, removal: Removal) -> str:
    assert source.path is not None
    return fingerprint([source.path] if removal.masks is None else [source.path, _masks_of(source, removal.masks)])


def _shots(source: Source, fps: float, removal: Removal, tally: Tally, beat: Beat) -> Iterator[Removed]:
    segment, fill, gate = tools(removal)
    _, short_side = native(source)
    if segment is None:
        assert removal.masks is not None
        segment = MaskFiles(_masks_of(source, removal.masks))
    stored = 0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal stored
        numbered = read_numbered(source, fps=fps, short_side=short_side)
        while True:
            try:
                number, frame = next(numbered)
            except StopIteration as end:
                stored = end.value
                return
            if isinstance(segment, MaskFiles):
                segment.numbers.append(number)
            yield frame

    try:
        yield from remove_people(frames(), fps, segment, fill, removal.settings, gate, tally, beat)
    except (RefusedError, UserError, MemoryError):
        raise
    except Exception as error:  # a clip that breaks a network or a filler is left out; the others go on
        traceback.print_exc()
        # Its words may be names and paths, and reasons are published; they are in what was just printed.
        raise RefusedError(f"removing its people failed: {type(error).__name__}") from None
    if isinstance(segment, MaskFiles):
        segment.check_count(stored)


def _remove_source(
    classes: tuple[str, ...],
    out: Path,
    removal: Removal,
    secret: bytes,
    fps: float | None,
    sheets: Path | None,
    source: Source,
    beat: Beat,
) -> Clip:
    """Runs in a worker process."""
    tally, sheet = Tally(), Sheet()
    key = sample_key(secret, source.id)
    made_of = _made_of(source, removal)  # before anything is read, so that what changes meanwhile is noticed later
    holes: list[NDArray[np.uint8]] = []  # of each frame, a bit a pixel

    def frames(rate: float) -> Iterator[NDArray[np.uint8]]:
        for shot in _shots(source, rate, removal, tally, beat):
            if sheets is not None:
                sheet.add(shot)
            for frame, hole in zip(shot.frames, shot.holes):
                beat()
                if removal.keep_holes:
                    holes.append(np.packbits(_even(hole), axis=1))
                yield _even(frame).copy()
            shot = frame = hole = None  # they are large, and the next ones take as much again

    try:
        rate = fps or native(source)[0]
        video = encode(frames(rate), "h264", fps=rate, quality=QUALITY)
    except RefusedError as error:
        return Clip(source.id, source.label, "refused", made_of, str(error))
    reason = tally.why_dropped(removal.limits)
    if sheets is not None:
        sheet.save(sheets / f"{key}.png", f"{source.id}: {reason or 'kept'}")
    place = f"{classes[source.label]}/{key}.mp4"
    if reason is None:
        if removal.keep_holes:
            white = (np.unpackbits(bits, axis=1, count=video.width) * np.uint8(255) for bits in holes)
            masks = encode((np.dstack([mask] * 3) for mask in white), "h264", fps=rate, quality=QUALITY)
            write_atomic(staged(out, f"{HOLES}/{place}"), masks.members["mp4"])
        write_atomic(staged(out, place), video.members["mp4"])
    return Clip(
        path=source.id,
        label=source.label,
        outcome="dropped" if reason else "kept",
        made_of=made_of,
        reason=reason,
        out=None if reason else place,
        frames=tally.frames,
        unsure=tally.unsure,
        masked=round(tally.masked / max(tally.frames - tally.unsure, 1), 4),
        seen=round(tally.seen / max(tally.hole, 1), 4),
        looked=tally.looked,
        hits=tally.hits,
    )


def _even(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def _resized(frame: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    cv2 = opencv()

    if frame.shape[:2] == (shape.height, shape.width):
        return frame
    method = cv2.INTER_AREA if shape.height < frame.shape[0] else cv2.INTER_CUBIC
    return cast("NDArray[np.uint8]", cv2.resize(frame, (shape.width, shape.height), interpolation=method))

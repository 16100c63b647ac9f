"""What `remove-people` leaves in its folder beside videos: how people were removed, and what became of each source."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from understudy.shards.beside import RECORD
from understudy.shards.errors import UserError
from understudy.shards.files import atomic_file, write_atomic

CLIPS = "removal.jsonl"  # what became of each source; names sources, so it is for the owner's eyes
HOLES = ".holes"  # with keep_holes: videos of the masks, named as the videos are; hidden, so that they aren't packed
STAGED = ".staged"  # videos that are not listed yet

Outcome = Literal["kept", "dropped", "refused"]


@dataclass(frozen=True)
class Clip:
    """What became of one source. Shares are 0..1: `masked` of the picture, `seen` of the holes. `made_of` is the
    `fingerprint` of the source and its masks as they were; None where nobody took one yet.
    """

    path: str
    label: int
    outcome: Outcome
    made_of: str | None = None
    reason: str | None = None
    out: str | None = None
    frames: int = 0
    unsure: int = 0
    masked: float = 0.0
    seen: float = 0.0
    looked: int = 0
    hits: int = 0


@dataclass(frozen=True)
class Summary:
    """How many sources came to what, and the most common reasons for dropping one."""

    kept: int
    dropped: int
    refused: int
    reasons: tuple[tuple[str, int], ...]


def summarise(clips: Sequence[Clip]) -> Summary:
    """Counts by outcome."""
    counts = Counter(clip.outcome for clip in clips)
    reasons = Counter(clip.reason for clip in clips if clip.reason)
    return Summary(counts["kept"], counts["dropped"], counts["refused"], tuple(reasons.most_common(5)))


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `describe` said when `folder` was made, None where it was made otherwise; UserError if it is unfinished."""
    record = _read(folder)
    if record and "counts" not in record:
        raise UserError(f"{folder}: people are not removed from all of it yet; run remove-people again")
    return record.get("removal")


def models_of(record: Any) -> list[str]:
    """Names of the weights in a removal record, which is null where nobody was removed. Raises ValueError where it is
    neither.
    """
    models: Any = [] if record is None else record.get("models", []) if isinstance(record, dict) else None
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise ValueError("not a removal record")
    return models


def keeps_holes(folder: Path) -> bool:
    """Whether `folder`, made by `remove_from_all`, says where frames were filled in."""
    return bool(_read(folder).get("keep_holes"))


def kept_classes(folder: Path) -> tuple[str, ...] | None:
    """The classes of what `folder` was made of, in label order, those too of which no clip was kept. None where it was
    made otherwise, or before they were recorded.
    """
    classes = _read(folder).get("classes")
    return None if classes is None else tuple(classes)


def check_rate(folder: Path, fps: float) -> None:
    """Raise UserError where `folder` keeps fewer than `fps` frames a second: some would be packed more than once."""
    kept = _read(folder).get("fps")  # None for the videos' own
    if kept is not None and fps > kept:
        raise UserError(
            f"{folder}: {kept:g} frames a second were kept when people were removed, and at {fps:g} some would be "
            f"stored more than once; pack with --fps {kept:g}"
        )


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}


def check_kept(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError where one of the videos `names` in `folder` is not listed as one that people were removed from.

    Of those that are listed some may be gone: they were looked at and deleted.
    """
    kept = {clip.out for clip in load_clips(folder).values() if clip.outcome == "kept"}
    foreign = sorted(name for name in names if name not in kept)
    if foreign:
        raise UserError(
            f"{folder}: {foreign[0]} is not listed as kept in {CLIPS}, nor are {len(foreign) - 1} others; nobody "
            "removed people from them, so move them away"
        )


@contextmanager
def locked(out: Path) -> Generator[None]:
    """`out` for this process alone. Raises UserError where it holds something else, or another is at work there."""
    known = (out / RECORD).exists() or (out / CLIPS).exists()
    if not known and any(out.iterdir()):
        raise UserError(f"{out}: holds other files; give a new or an empty folder")
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another process is at work there; wait for it, or give another OUT") from None
        yield


def remember(out: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a removal that begins; raise UserError where another one was begun in `out`."""
    with suppress(FileNotFoundError):
        begun: Any = json.loads((out / RECORD).read_bytes())
        differing = [name for name in record if begun.get(name) != json.loads(json.dumps(record[name]))]
        if differing:
            raise UserError(
                f"{out}: begun with another {', '.join(differing)}; use the same again, give another OUT, or delete it"
            )
    write_atomic(out / RECORD, json.dumps(record, indent=1).encode())


def load_clips(out: Path) -> dict[str, Clip]:
    """The clips that are listed in `out`, by source. A last line that a kill cut short is not there."""
    path = out / CLIPS
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")
    clips = [Clip(**json.loads(line)) for line in lines[:-1]]
    return {clip.path: clip for clip in clips}


def fingerprint(files: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of change of files and of what lies in folders, which need not exist."""
    digest = hashlib.sha256()
    for path in files:
        found = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
        for file in found:
            status = file.stat()
            digest.update(json.dumps([file.name, status.st_size, status.st_mtime_ns]).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:32]


def begin_list(out: Path, valid: Callable[[Clip], bool]) -> dict[str, Clip]:
    """The clips that are done and `valid`, with the list cut back to them, and the videos of all that are kept in
    place. Videos of the others are deleted.
    """
    clips = load_clips(out)
    done = {path: clip for path, clip in clips.items() if valid(clip)}
    write_list(out, list(done.values()))
    for path, clip in clips.items():
        if path in done:
            _unstage(out, clip)
        elif clip.out is not None:
            for place in (clip.out, f"{HOLES}/{clip.out}", f"{STAGED}/{clip.out}", f"{STAGED}/{HOLES}/{clip.out}"):
                (out / place).unlink(missing_ok=True)
    return done


def add_to_list(out: Path, clip: Clip) -> None:
    """List a clip, and then show its video: none is to be seen that is not listed."""
    descriptor = os.open(out / CLIPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(_line(clip).encode())
        file.flush()
        os.fsync(file.fileno())
    _unstage(out, clip)


def write_list(out: Path, clips: Sequence[Clip]) -> None:
    """List these clips and no others."""
    with atomic_file(out / CLIPS) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write("".join(map(_line, clips)).encode())


def delete_unlisted(out: Path, clips: Iterable[Clip]) -> None:
    """Delete the videos that an earlier run made of sources that are not listed as kept any more."""
    kept = {clip.out for clip in clips if clip.outcome == "kept"}
    for folder in [path for top in (out, out / HOLES) for path in sorted(top.glob("[!.]*")) if path.is_dir()]:
        for video in sorted(folder.glob(f"{'[0-9a-f]' * 32}.mp4")):
            if f"{folder.name}/{video.name}" not in kept:
                video.unlink()
        with suppress(OSError):  # it holds others, or never was
            folder.rmdir()
    shutil.rmtree(out / STAGED, ignore_errors=True)


def staged(out: Path, place: str) -> Path:
    """Where the video `place` of `out` is written, until it is listed."""
    path = out / STAGED / place
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _unstage(out: Path, clip: Clip) -> None:
    if clip.out is None:
        return
    for place in (f"{HOLES}/{clip.out}", clip.out):
        if (out / STAGED / place).exists():
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            (out / STAGED / place).replace(out / place)


def _line(clip: Clip) -> str:
    return json.dumps(asdict(clip)) + "\n"

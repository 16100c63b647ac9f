"""The clips of whatever is to be audited: a corpus of ours, a folder of WebDataset tars, or a folder of videos.

Canaries (`canary.py`) are read here too.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.shards.beside import visible_files
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.errors import UserError
from understudy.shards.files import sha256_of
from understudy.shards.frames import decode_frames
from understudy.shards.holes import read_holes
from understudy.shards.ingest import read_video
from understudy.shards.kinds import Codec
from understudy.shards.manifest import MANIFEST, MEMBERS, Manifest
from understudy.shards.remote import Address, Remote, parse_address
from understudy.shards.sources import RefusedError, Source
from understudy.shards.tarshard import read_spans

Picture = NDArray[np.uint8]
VIDEO = {"mp4", "avi", "mkv", "webm", "mov", "m4v", "mpg", "mpeg", "ts", "flv", "wmv", "3gp", "mxf", "gif"}
IMAGE = {"jpg", "jpeg", "png", "webp"}
# Files beside videos that are not footage: what a removal and an audit write.
KNOWN_BESIDE = {"removal.json", "removal.jsonl", "audit.json"}


@dataclass(frozen=True)
class Shape:
    """How video that is not packed is looked at: frames a second, pixels of the short side, and the encoder and its
    quality that canaries go through first (None: none).
    """

    fps: float
    short_side: int
    codec: Codec | None = None
    quality: int = 85


@dataclass(frozen=True)
class Clip:
    """One clip and how to get at it. `group` is empty but for canaries, where it is the group to be counted in.

    `place` is a corpus of ours (`number` is the sample), a tar (`members` are the offset, size and extension of
    those that make the clip), or a video file. With `half`, its pictures are shown at half their size. `recording` is
    what clips of one origin have in common; a clip of which nobody knows is a recording of its own.
    """

    key: str
    place: str
    number: int = -1
    members: tuple[tuple[int, int, str], ...] = ()
    group: str = ""
    half: bool = False
    recording: str = ""


@dataclass(frozen=True)
class Footage:
    """What is audited: its clips, a digest of all of it (a manifest's own, where there is one), and what it is.
    `passed_over` are files beside them that nobody looks at, as their names are not those of videos.
    """

    clips: tuple[Clip, ...]
    digest: str
    corpus: Corpus | None
    passed_over: tuple[str, ...] = ()


def check_there(root: Address) -> None:
    """Raise UserError where there is nothing at `root` to audit, so far as can be told without reading it through."""
    if isinstance(root, Remote) or (root / MANIFEST).exists():
        Manifest.load(root)
        return
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a corpus, a folder of .tar shards, or a folder of videos")
    if not any(root.glob("*.tar")) and not any(path.suffix[1:].lower() in VIDEO for path in visible_files(root)):
        raise _nothing_in(root)


def _nothing_in(root: Path) -> UserError:
    return UserError(f"{root}: neither {MANIFEST}, nor .tar shards with videos or pictures, nor videos in it")


def open_footage(root: Address) -> Footage:
    """The clips at `root`. Raises UserError where there are none."""
    check_there(root)
    if isinstance(root, Remote) or (root / MANIFEST).exists():
        corpus = Corpus.open(root)
        return Footage(tuple(packed_clips(corpus, str(root))), corpus.manifest.digest, corpus)
    tars, found = sorted(root.glob("*.tar")), visible_files(root)
    files = tars or [path for path in found if path.suffix[1:].lower() in VIDEO]
    clips = (
        [clip for path in tars for clip in tar_clips(path)]
        if tars
        else [Clip(str(path.relative_to(root)), str(path)) for path in files]
    )
    if not clips:
        raise _nothing_in(root)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size} {sha256_of(path)}\n".encode(errors="replace"))
    passed_over = tuple(
        str(path.relative_to(root)) for path in found if path not in set(files) and path.name not in KNOWN_BESIDE
    )
    return Footage(tuple(clips), digest.hexdigest(), None, passed_over)


def packed_clips(corpus: Corpus, place: str, prefix: str = "", group: str = "") -> Iterator[Clip]:
    """The samples of a corpus of ours at `place`."""
    for number, key in enumerate(corpus.keys):
        yield Clip(f"{prefix}{key}", place, number, group=group, recording=str(corpus.group[number]))


def tar_clips(path: Path) -> Iterator[Clip]:
    """The samples of a WebDataset shard: a video each, or pictures in the order in which they lie."""
    pictures: dict[str, list[tuple[int, int, str]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.size < 0 or member.issparse():
                    raise tarfile.ReadError(f"{member.name!r} is sparse, or of size {member.size}")
                folder, slash, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                key = f"{folder}{slash}{key}"  # names may repeat from folder to folder
                last = extension.rpartition(".")[2].lower()
                where = (member.offset_data, member.size, last)
                if member.isfile() and last in VIDEO:
                    yield Clip(key, str(path), members=(where,))
                elif member.isfile() and last in IMAGE:
                    pictures.setdefault(key, []).append(where)
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, OSError) as error:  # whatever a header may say
        raise UserError(f"{path}: not a plain tar ({error!r}); audit needs uncompressed WebDataset shards") from None
    yield from (Clip(key, str(path), members=tuple(where)) for key, where in pictures.items())


def clip_frames(clip: Clip, shape: Shape) -> Iterator[Picture]:
    """The frames of a clip, RGB uint8 (H, W, 3). Raises RefusedError or ValueError where it can't be read whole."""
    frames = _frames(clip, shape)
    # Canaries are scaled and compressed as the corpus is, so that a detector meets them on equal terms.
    if clip.group and clip.number >= 0:
        frames = (scaled(frame, shape.short_side) for frame in frames)
    if clip.half:
        frames = map(halved, frames)
    if clip.group and shape.codec:
        encoded = encode(frames, shape.codec, fps=shape.fps, quality=shape.quality)
        frames = decode_frames(encoded.members, shape.codec, encoded.frames)
    yield from frames


def scaled(picture: Picture, short_side: int) -> Picture:
    """A picture with that short side, both sides even."""
    from PIL import Image

    height, width = picture.shape[:2]
    if min(height, width) == short_side:
        return picture
    even = [2 * max(1, round(side * short_side / min(height, width) / 2)) for side in (width, height)]
    return np.asarray(Image.fromarray(picture).resize((even[0], even[1]), Image.Resampling.LANCZOS))


def halved(picture: Picture) -> Picture:
    """A picture of the same size that shows `picture` at half its size, on a blurred enlargement of itself."""
    from PIL import Image, ImageFilter

    whole = Image.fromarray(picture)
    ground = whole.filter(ImageFilter.GaussianBlur(max(whole.size) / 20))
    small = whole.resize((max(1, whole.width // 2), max(1, whole.height // 2)), Image.Resampling.LANCZOS)
    ground.paste(small, (whole.width // 4, whole.height // 4))
    return np.asarray(ground)


def _frames(clip: Clip, shape: Shape) -> Iterator[Picture]:
    if clip.number >= 0:
        yield from _packed(_corpus(clip.place), clip.number)
    elif clip.members and clip.members[0][2] in IMAGE:
        from PIL import Image

        with Path(clip.place).open("rb") as file:
            for offset, size, _ in clip.members:
                picture = io.BytesIO(read_spans(file, [(offset, size)])[0])
                yield np.asarray(Image.open(picture).convert("RGB"))
    elif clip.members:
        offset, size, _ = clip.members[0]
        # In memory: a killed worker would leave a file, with whoever is in the video, behind.
        with Path(clip.place).open("rb") as file, os.fdopen(os.memfd_create("clip"), "wb") as copy:
            copy.write(read_spans(file, [(offset, size)])[0])
            copy.flush()
            yield from _video(Path(f"/proc/self/fd/{copy.fileno()}"), shape)
    else:
        yield from _video(Path(clip.place), shape)


def _video(path: Path, shape: Shape) -> Iterator[Picture]:
    return read_video(Source(path.name, 0, path), fps=shape.fps, short_side=shape.short_side)


def _packed(corpus: Corpus, sample: int) -> Iterator[Picture]:
    payload = [extension for extension in MEMBERS[corpus.manifest.codec] if extension != "json"]
    with os.fdopen(corpus.open_shard(int(corpus.shard[sample])), "rb") as file:
        members = dict(zip(payload, read_spans(file, corpus.spans[sample].tolist())))
    yield from decode_frames(members, corpus.manifest.codec, int(corpus.frames[sample]))


def clip_holes(clip: Clip) -> NDArray[np.bool_] | None:
    """Where a sample of a corpus was filled in, in cells (T, rows, columns), where its removal record says so."""
    corpus, sample = _corpus(clip.place), clip.number
    with os.fdopen(corpus.open_shard(int(corpus.shard[sample])), "rb") as file:
        offset, size = corpus.sidecars[sample].tolist()
        (sidecar,) = read_spans(file, [(offset, size)])
    return read_holes(sidecar, int(corpus.frames[sample]), int(corpus.width[sample]), int(corpus.height[sample]))


@cache
def _corpus(place: str) -> Corpus:
    return Corpus.open(parse_address(place))


def pictures_of(clip: Clip, shape: Shape, numbers: list[int]) -> dict[int, Picture]:
    """Some frames of a clip by number; none of those that are not there any more."""
    try:
        frames = islice(clip_frames(clip, shape), max(numbers) + 1)
        return {number: frame for number, frame in enumerate(frames) if number in numbers}
    except (RefusedError, ValueError, OSError):
        return {}

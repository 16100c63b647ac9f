"""Corpora by name: the benchmark's data as its users hold it on disk, found by its published split files.

Of each: how many videos and classes were published, which videos are of one origin, what kind it is. The formats of
the split files are in `splits.py`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from understudy.shards import splits
from understudy.shards.errors import UserError
from understudy.shards.kinds import Kind
from understudy.shards.sources import PICTURES, Source
from understudy.shards.splits import Split

Layout = Literal[
    "kinetics150",
    "nohuman-kinetics150",
    "synthetic150",
    "ucf101",
    "hmdb51",
    "mini-ssv2",
    "diving48",
    "ikea-fa",
    "uav-human",
]
SplitName = Literal["train", "val"]
VIDEOS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")


@dataclass(frozen=True)
class Named:
    """What was published of a data set: `videos` in the train and val split, None where no count is known.

    `group` says of a video, by the folder that it is listed in and its name without extension, what it has in common
    with others of its origin. With `class_folders` that folder names its class.
    """

    kind: Kind
    classes: int
    videos: dict[SplitName, int | None]
    group: Callable[[str, str], str]
    class_folders: bool = True


@dataclass(frozen=True)
class Found:
    """Sources with their classes, the ids of those whose video is missing, and lines on what is not as published."""

    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def _alone(folder: str, stem: str) -> str:
    return ""


def _youtube_id(folder: str, stem: str) -> str:
    return stem[:11]


def _ucf_group(folder: str, stem: str) -> str:  # v_YoYo_g25_c03: clips c01, c02 ... are cut from the video of group g25
    return stem.rpartition("_c")[0]


def _hmdb_movie(folder: str, stem: str) -> str:  # MOVIE_CLASS_f_cm_np1_le_med_6
    return stem.rpartition(f"_{folder}_")[0]


def _before_underscore(folder: str, stem: str) -> str:  # GOPR0115_02570_02602_13: recording, first and last frame
    return stem.partition("_")[0]


def _uav_person(folder: str, stem: str) -> str:
    return stem[:4]


def _rendered_motion(folder: str, stem: str) -> str:
    """SURREACT renders a motion from several sides (_v090_r00), ElderSim films it with several cameras (_C007)."""
    return re.sub(r"(_v\d+_r\d+|_C\d+)$", "", stem)


# Counts: the lines of the split files that PPMA (and, for Kinetics-150, SynAPT) published. Mini-SSv2's and
# Synthetic-150's training lists are not among them.
NAMED: dict[Layout, Named] = {
    "kinetics150": Named("real", 150, {"train": 89_665, "val": 7_423}, _youtube_id),
    "nohuman-kinetics150": Named("no-human", 150, {"train": 89_665, "val": 7_423}, _youtube_id),
    "synthetic150": Named("synthetic", 150, {"train": None, "val": 12_547}, _rendered_motion),
    "ucf101": Named("real", 101, {"train": 9_537, "val": 3_783}, _ucf_group),
    "hmdb51": Named("real", 51, {"train": 3_570, "val": 1_530}, _hmdb_movie),
    "mini-ssv2": Named("real", 87, {"train": None, "val": 11_799}, _alone, class_folders=False),
    "diving48": Named("real", 48, {"train": 15_027, "val": 1_970}, _youtube_id, class_folders=False),
    "ikea-fa": Named("real", 12, {"train": 1_781, "val": 163}, _before_underscore),
    "uav-human": Named("real", 155, {"train": 16_285, "val": 6_191}, _uav_person, class_folders=False),
}


def find_named(
    layout: Layout, split: SplitName, root: Path, listing: Path | None, classes: tuple[str, ...] | None, fold: int = 1
) -> Found:
    """The sources of `split` of a named data set whose videos, or frame folders, lie anywhere below `root`.

    `listing` is a split file, or the folder with the published ones; by default they are looked for below `root`.
    `classes` replace the class names; `fold` is the split of UCF101 and HMDB51, which have three. Ids are the paths
    as listed, so that they don't depend on `root`. Raises UserError where lists are missing or don't fit together.
    """
    named = NAMED[layout]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the one that the videos of {layout} lie in")
    read = _read_split(layout, split, root, listing, fold)
    names = classes or read.classes or tuple(str(label) for label in range(named.classes))
    highest = max((label for _, label in read.rows), default=0)
    if highest >= len(names):
        raise UserError(f"{layout} {split}: the split file has label {highest}, but there are {len(names)} class names")
    if classes and read.classes and named.class_folders:
        wrong = [f"{label} is {b} for {a}" for label, (a, b) in enumerate(zip(classes, read.classes)) if a != b]
        if wrong:
            raise UserError(f"{layout} {split}: class names and split file disagree ({'; '.join(wrong[:3])})")
    duplicates = [path for path, count in Counter(path for path, _ in read.rows).items() if count > 1]
    if duplicates:
        raise UserError(f"{layout} {split}: {len(duplicates)} videos are listed twice, such as {duplicates[0]}")
    places = locate([path for path, _ in read.rows], root)
    sources = tuple(
        Source(
            path, label, place or root / path.lstrip("/"), named.group(PurePosixPath(path).parent.name, stem_of(path))
        )
        for (path, label), place in zip(read.rows, places)
    )
    missing = tuple(source.id for source, place in zip(sources, places) if place is None)
    return Found(sources, names, missing, _notes(layout, split, fold, sources, names))


def stem_of(path: str) -> str:
    """The name at the end of a path without its video extension; other dots belong to the name."""
    name = PurePosixPath(path).name
    stem, dot, extension = name.rpartition(".")
    return stem if dot and f".{extension.lower()}" in VIDEOS else name


def locate(paths: Sequence[str], root: Path) -> list[Path | None]:
    """Where the listed videos lie below `root`, None for those that don't.

    A list may have been made elsewhere: with other folders above, with frames for videos, with another extension.
    So a video that is not at root/path is looked for by its name alone; of several with that name it is the one
    that has most folders above in common with the listed path. Raises UserError where that leaves two.
    """
    direct = [root / path.lstrip("/") for path in paths]
    if all(place.exists() for place in direct):
        return list(direct)
    below: dict[str, list[Path]] = {}
    for place in _videos_below(str(root), ()):
        below.setdefault(stem_of(place), []).append(Path(place))
    return [
        place if place.exists() else _most_alike(path, below.get(stem_of(path), []))
        for path, place in zip(paths, direct)
    ]


def _most_alike(path: str, candidates: Sequence[Path]) -> Path | None:
    def in_common(candidate: Path) -> int:
        pairs = zip(reversed(PurePosixPath(path).parts[:-1]), reversed(candidate.parts[:-1]))
        return next((count for count, (a, b) in enumerate(pairs) if a != b), len(candidate.parts))

    ranked = sorted(candidates, key=in_common, reverse=True)
    if len(ranked) > 1 and in_common(ranked[0]) == in_common(ranked[1]):
        raise UserError(f"{path}: could be {ranked[0]} or {ranked[1]}; name a folder that holds one of them only")
    return ranked[0] if ranked else None


def _videos_below(folder: str, above: tuple[str, ...]) -> list[str]:
    """Video files and folders of frames, at any depth. A folder with pictures is one of frames where no such video
    or folder is in it: beside those, pictures are covers and the like.
    """
    above = (*above, os.path.realpath(folder))
    found: list[str] = []
    pictures = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:
                    found += _videos_below(entry.path, above)
            elif entry.name.lower().endswith(VIDEOS):
                found.append(entry.path)
            elif entry.name.lower().endswith(PICTURES):
                pictures = True
    return found or ([folder] if pictures else [])


def _read_split(layout: Layout, split: SplitName, root: Path, listing: Path | None, fold: int) -> Split:
    named = NAMED[layout]
    if listing is not None and listing.is_file() and listing.suffix.lower() in (".csv", ".txt") and _is_list(listing):
        return splits.semicolon_list(listing, named.classes, names_in_paths=named.class_folders)
    folder = root if listing is None else listing if listing.is_dir() else listing.parent
    match layout:
        case "ucf101":
            return splits.ucf101(_with_file(folder, "classInd.txt"), split, fold)
        case "hmdb51":
            return splits.hmdb51(_with_file(folder, f"*_test_split{fold}.txt"), split, fold)
        case "diving48":
            return splits.diving48(_with_file(folder, "Diving48_vocab.json"), split)
        case "uav-human" if listing is None:
            return splits.uav_human(root, split, named.classes)
        case _:
            if listing is not None and not listing.is_dir():
                return splits.semicolon_list(listing, named.classes, names_in_paths=named.class_folders)
            raise UserError(f"{layout}: name its {split} list, with path;label a line, with --split-file FILE")


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return b";" in file.readline()


def _with_file(folder: Path, pattern: str) -> Path:
    """`folder`, or the one below it, that has a file of that name."""
    found = sorted({path.parent for path in folder.glob(pattern)} or {path.parent for path in folder.rglob(pattern)})
    if len(found) != 1:
        many = "no" if not found else f"{len(found)} folders with a"
        raise UserError(f"{folder}: {many} {pattern} in it; name the folder with the split files with --split-file")
    return found[0]


def _notes(
    layout: Layout, split: SplitName, fold: int, sources: Sequence[Source], classes: Sequence[str]
) -> tuple[str, ...]:
    """Where counts are not those that were published, or can't be told."""
    named = NAMED[layout]
    published = named.videos[split]
    notes: list[str] = []
    if published is None or fold != 1:
        notes.append(f"{layout} {split}: {len(sources):,} videos listed; no published count to compare with")
    elif len(sources) != published:
        notes.append(f"{layout} {split}: {len(sources):,} videos listed, {published:,} were published")
    if len(classes) != named.classes:
        notes.append(f"{layout} {split}: {len(classes)} classes, {named.classes} were published")
    unseen = len(classes) - len({source.label for source in sources})
    if unseen:
        notes.append(f"{layout} {split}: {unseen} of {len(classes)} classes have no video")
    return tuple(notes)

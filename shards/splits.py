"""Split files of video data sets, read in the formats in which they are published: rows of (path, label), class names.

Which data set has which, and where its videos lie, is the business of `named.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from understudy.shards.errors import UserError

# Persons 0 to 118 that UAV-Human's first cross-subject protocol tests on, as its published test list has them; the
# other 89 are trained on.
UAV_TEST_PERSONS = frozenset(
    (*range(91, 98), 99, 101, 104, 107, 108, 109, 113, 1, 3, 4, 9, 22, 23, 24, 31, 41, 54, 58, 60, 66, 72, 74, 75)
)
UAV_NAME = re.compile(r"P(\d{3})S\d{2}G\d{2}B\d{2}H\d{2}UC\d{6}LC\d{6}A(\d{3})R\d_\d+")


@dataclass(frozen=True)
class Split:
    """The videos of one split: `rows` of (path or bare name, label), and class names in label order where known."""

    rows: tuple[tuple[str, int], ...]
    classes: tuple[str, ...] | None


def semicolon_list(path: Path, classes: int, *, names_in_paths: bool) -> Split:
    """A list with `path;label` a line, as PPMA publishes its splits, or `path;1;frames;label`, as SynAPT does (there
    also with `;;` for `;`). Labels count from 0.

    With `names_in_paths` the folder of a video is its class; raises UserError where a label has two of them.
    """
    rows: list[tuple[str, int]] = []
    for number, line in _lines(path):
        fields = re.split(";+", line.strip())
        if len(fields) not in (2, 4) or not fields[0] or not fields[-1].isdigit():
            raise UserError(f"{path}, line {number}: {line!r} is neither path;label nor path;1;frames;label")
        if int(fields[-1]) >= classes:
            raise UserError(f"{path}, line {number}: label {fields[-1]}, but the classes are 0 to {classes - 1}")
        rows.append((fields[0], int(fields[-1])))
    if not rows:
        raise UserError(f"{path}: an empty list")
    return Split(tuple(rows), _names_in_paths(path, rows, classes) if names_in_paths else None)


def ucf101(folder: Path, split: str, fold: int) -> Split:
    """`ucfTrainTestlist`: `classInd.txt` with "1 ApplyEyeMakeup" a line; `trainlist01.txt` with a path and its class
    number, from 1; `testlist01.txt` with paths alone. The folder in a path names its class.
    """
    index = folder / "classInd.txt"
    classes: list[str] = []
    for number, line in _lines(index):
        position, _, name = line.strip().partition(" ")
        if position != str(len(classes) + 1) or not name:
            raise UserError(f"{index}, line {number}: {line!r} is not class {len(classes) + 1} and its name")
        classes.append(name)
    path = folder / f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt"
    rows: list[tuple[str, int]] = []
    for number, line in _lines(path):
        video, _, position = line.strip().partition(" ")
        name = PurePosixPath(video).parent.name
        if name not in classes:
            raise UserError(f"{path}, line {number}: class {name!r} is not in {index}; they belong to two releases")
        label = classes.index(name)
        if position and position != str(label + 1):
            raise UserError(f"{path}, line {number}: class {position}, but {index} has {name} as {label + 1}")
        rows.append((video, label))
    return Split(tuple(rows), tuple(classes))


def hmdb51(folder: Path, split: str, fold: int) -> Split:
    """`testTrainMulti_7030_splits`: a file CLASS_test_split1.txt for each class, "video.avi 1" a line, where 1 is for
    training, 2 for testing and 0 for neither. Classes in the order of the alphabet.
    """
    ending = f"_test_split{fold}.txt"
    classes = sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))
    if not classes:
        raise UserError(
            f"{folder}: no files *{ending} in it; give the folder testTrainMulti_7030_splits with --split-file"
        )
    wanted = "1" if split == "train" else "2"
    rows: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        path = folder / f"{name}{ending}"
        for number, line in _lines(path):
            video, _, use = line.strip().rpartition(" ")
            if use not in ("0", "1", "2") or not video:
                raise UserError(f"{path}, line {number}: {line!r} is not a video and 0, 1 or 2")
            if use == wanted:
                rows.append((f"{name}/{video.strip()}", label))
    return Split(tuple(rows), tuple(classes))


def diving48(folder: Path, split: str) -> Split:
    """`Diving48_V2_train.json` or `_test.json`: a list of objects with `vid_name` and `label`; `Diving48_vocab.json`:
    for each class a list of take-off, somersault, twist and position.
    """
    path = folder / f"Diving48_V2_{'train' if split == 'train' else 'test'}.json"
    vocabulary = folder / "Diving48_vocab.json"
    try:
        classes = tuple("-".join(parts) for parts in cast("list[list[str]]", _json(vocabulary)))
        entries = cast("list[dict[str, Any]]", _json(path))
        rows = tuple((str(entry["vid_name"]), int(entry["label"])) for entry in entries)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} or {vocabulary.name}: not as Diving48 publishes them ({error!r})") from None
    for name, label in rows:
        if not 0 <= label < len(classes):
            raise UserError(f"{path}: {name} has label {label}, but {vocabulary} has {len(classes)} classes")
    return Split(rows, classes)


def uav_human(folder: Path, split: str, classes: int) -> Split:
    """UAV-Human has no list: person and action stand in a video's name, P001...A035R0_..., and the persons make the
    split. Reads the names below `folder`.
    """
    rows: list[tuple[str, int]] = []
    for _, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            matched = UAV_NAME.match(name)
            if matched and (int(matched[1]) in UAV_TEST_PERSONS) == (split == "val"):
                rows.append((name, int(matched[2])))
        folders[:] = [name for name in folders if not UAV_NAME.match(name)]
    if not rows:
        raise UserError(f"{folder}: no UAV-Human videos of the {split} split in it, such as P001S00...A035R0_....avi")
    for name, label in rows:
        if label >= classes:
            raise UserError(f"{folder}: {name} is of action {label}, but there are {classes}")
    return Split(tuple(sorted(rows)), tuple(f"A{label:03d}" for label in range(classes)))


def _names_in_paths(listing: Path, rows: Sequence[tuple[str, int]], classes: int) -> tuple[str, ...]:
    """A class's name is the folder that its videos lie in; a class without videos keeps its number for a name."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for path, label in rows:
        name = PurePosixPath(path).parent.name
        if names.setdefault(label, name) != name or labels.setdefault(name, label) != label:
            raise UserError(
                f"{listing}: {path} has label {label}, but {names[label]!r} has label {label} and {name!r} has "
                f"{labels.get(name, label)} in lines before; folders and labels must agree"
            )
    return tuple(names.get(label, str(label)) for label in range(classes))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1."""
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: can't read the split file ({error.strerror}); name it with --split-file") from None
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: can't read the split file ({error.strerror}); name its folder with --split-file"
        ) from None

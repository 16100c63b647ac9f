"""What users point the packer at, a folder of class folders or a list file, turned into labelled sources."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from understudy.shards.errors import UserError
from understudy.shards.frame_folders import is_frame_folder
from understudy.shards.sources import Source

# Without class names the labels of a list name the classes; a stray large one must not make a million of them.
MOST_UNNAMED_CLASSES = 1 << 16


class MissingVideosError(UserError):
    """Videos that a list names are not there: all of them are in `names`, the message has the first few."""

    SHOWN = 10

    def __init__(self, place: object, root: Path, names: Sequence[str], listed: int) -> None:
        self.names = tuple(names)
        few = ", ".join(names[: self.SHOWN]) + (", ..." if len(names) > self.SHOWN else "")
        hint = "add --allow-missing to pack the others"
        super().__init__(f"{place}: {len(names)} of {listed} files are not in {root}: {few}; {hint}")


def collect(
    source: Path,
    out: Path,
    *,
    root: Path | None,
    classes_file: Path | None,
    folder_classes: tuple[str, ...] | None = None,
    allow_missing: bool = False,
) -> tuple[list[Source], tuple[str, ...]]:
    """The sources and classes of a folder of class folders or of a list file, to be packed into `out`.

    The classes are those of `classes_file`, else `folder_classes` for a folder, else what `source` tells.
    Raises UserError where there is nothing to pack, or something is wrong with what there is; MissingVideosError
    where files of a list are missing, unless `allow_missing` leaves it to the packer to refuse them.
    """
    classes = None if classes_file is None else read_classes(classes_file)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; name a folder of class folders, or a list file")
    if not source.is_dir():
        return list_sources(source, root, classes, allow_missing=allow_missing)
    if root is not None:
        raise UserError(f"{source}: is a folder, and --root is for list files; leave it away")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out}: lies inside {source}, where it would be taken for a class; give an OUT elsewhere")
    return folder_sources(source, folder_classes if classes is None else classes)


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in file `path`, one a line, in label order."""
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise UserError(f"{path}: can't read the class names ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: class names are not UTF-8; convert the file") from None
    names = tuple(name.strip() for name in names)
    while names and not names[-1]:
        names = names[:-1]
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise UserError(f"{path}, line {number}: {'the same name again' if name else 'empty'}; one name a line")
    if not names:
        raise UserError(f"{path}: no class names in it; write one a line")
    return names


def folder_sources(folder: Path, classes: tuple[str, ...] | None) -> tuple[list[Source], tuple[str, ...]]:
    """The sources below the class folders of `folder`, and the classes: `classes`, or the folders' names sorted.

    Every file at any depth counts, whatever its name, but hidden files and folders don't: a file that is no video
    is then refused with its reason rather than overlooked. A folder of nothing but pictures, below a class folder, is
    one video. Links are followed; files beside the class folders are
    of no class and passed over. Raises UserError where there are no class folders, or one is not among `classes`.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not _hidden(entry.name) and entry.is_dir())
    except OSError as error:
        raise UserError(f"{folder}: can't list it ({error.strerror})") from None
    if not names:
        raise UserError(f"{folder}: no class folders in it; put the videos of each class into a folder named after it")
    for name in names:
        if not name.isprintable():
            raise UserError(f"{folder}: class folder {name!r} is not UTF-8 or holds control characters; rename it")
        if classes is not None and name not in classes:
            raise UserError(f"{folder}: class folder {name!r} is not among the given classes")
    classes = classes if classes is not None else tuple(names)
    sources = [
        Source(os.path.relpath(path, folder), classes.index(name), Path(path))
        for name in names
        for path in _files_below(str(folder / name), ())
    ]
    if not sources:
        raise UserError(f"{folder}: no files in its {len(names)} class folders")
    return sources, classes


def _files_below(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """The files in a folder and the folders in it, sorted by name; a link to a folder above is not entered."""
    above = (*above, os.path.realpath(folder))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: can't list it ({error.strerror})") from None
    for entry in entries:
        if _hidden(entry.name):
            continue
        if not entry.is_dir() or is_frame_folder(Path(entry.path)):
            yield entry.path
        elif os.path.realpath(entry.path) not in above:
            yield from _files_below(entry.path, above)


def list_sources(
    listing: Path, root: Path | None, classes: tuple[str, ...] | None, *, allow_missing: bool = False
) -> tuple[list[Source], tuple[str, ...]]:
    """The sources of a list file with `path;label` a line, and the classes: `classes`, or "0" to the highest label.

    Paths, of files or of folders of frames, are relative to `root`, by default the list's own folder. Raises UserError
    naming the first line that is wrong, MissingVideosError naming all files that are missing.
    """
    try:
        data = listing.read_bytes()
    except OSError as error:
        raise UserError(f"{listing}: can't read the list ({error.strerror})") from None
    root = listing.parent if root is None else root
    rows = parse_list(data, str(listing), None if classes is None else len(classes))
    sources = [Source(path, label, root / path) for path, label in rows]
    missing = [source.id for source in sources if not (root / source.id).exists()]
    if missing and not allow_missing:
        raise MissingVideosError(listing, root, missing, len(sources))
    highest = max(source.label for source in sources)
    return sources, classes if classes is not None else tuple(str(label) for label in range(highest + 1))


def parse_list(data: bytes, name: str, classes: int | None) -> list[tuple[str, int]]:
    """The (path, label) pairs of a list file's bytes; `name` is what errors call it.

    A line is split at its last semicolon. Labels are whole numbers from 0 to `classes` - 1. Empty lines are
    passed over, but a list without any pair is an error.
    """
    rows: list[tuple[str, int]] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        path, semicolon, text = line.rpartition(b";")
        text = text.strip()
        if not semicolon or not path or not text:
            raise UserError(f"{where}: {os.fsdecode(line)!r} is not of the form path;label")
        if not (text.isdigit() and text.isascii()):
            raise UserError(f"{where}: label {os.fsdecode(text)!r} is not a whole number from 0")
        label = int(text)
        last = (MOST_UNNAMED_CLASSES if classes is None else classes) - 1
        if label > last:
            hint = "; name more classes with --classes" if classes is None else ""
            raise UserError(f"{where}: label {label} is out of range, the classes are 0 to {last}{hint}")
        source = os.path.normpath(os.fsdecode(path))
        if source in first_line:
            raise UserError(f"{where}: the same file as in line {first_line[source]}; list each once")
        first_line[source] = number
        rows.append((source, label))
    if not rows:
        raise UserError(f"{name}: an empty list; write path;label, one a line")
    return rows


def _hidden(name: str) -> bool:
    return name.startswith(".")

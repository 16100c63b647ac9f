"""What a packer is given: sources with a label, and the reasons for which one is refused."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # what a folder of frames holds


@dataclass(frozen=True)
class Source:
    """One video to pack. `id` names it stably within its collection (a relative path, a demo number); only a
    keyed hash of `id` reaches the corpus. `path` is the file, a folder of frames, or None for what is made by code.

    `group` names what videos of one origin have in common (the recording that they were cut from, the person in
    them), so that a corpus can be split without tearing them apart; only a keyed hash of it reaches the corpus too.
    """

    id: str
    label: int
    path: Path | None = None
    group: str = ""


class RefusedError(Exception):
    """This source can't be decoded whole; the text says why, in words that go into `OUT-refused.jsonl`."""


@contextmanager
def reading(what: str = "it") -> Generator[None]:
    """For what reads a source and nothing else, so that an OSError is the source's own: it becomes a RefusedError."""
    try:
        yield
    except OSError as error:
        raise RefusedError(f"{what} can't be read: {error.strerror}") from None

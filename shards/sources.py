"""What a packer is given: sources with a label, and the reasons for which one is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One video to pack. `id` names it stably within its collection (a relative path, a demo number); only a
    keyed hash of `id` reaches the corpus. `path` is the file, or None for what is made by code.
    """

    id: str
    label: int
    path: Path | None = None


class RefusedError(Exception):
    """This source can't be decoded whole; the text says why, in words that go into `refused.jsonl`."""

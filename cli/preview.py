"""`understudy preview`: a contact sheet of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from understudy.shards.remote import parse_address


@dataclass(frozen=True)
class Preview:
    """Draw a contact sheet: one row per sample, spread over the classes; columns are frames in time."""

    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
    """The corpus: a folder, s3://bucket/prefix or https://host/path."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A .png picture, or one .html file in which the clips play."""
    rows: int = 12
    """Samples to show."""
    columns: int = 8
    """Frames of each sample to show."""
    height: int = 96
    """Height of a frame in pixels."""
    seed: int = 0
    """Another seed shows other samples."""

    def run(self) -> None:
        """Do it."""
        from understudy.shards.preview import preview

        corpus = parse_address(self.corpus)
        preview(corpus, self.out, rows=self.rows, columns=self.columns, height=self.height, seed=self.seed)
        print(self.out)

"""`understudy info`: what a corpus holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from understudy.shards.remote import parse_address


@dataclass(frozen=True)
class Info:
    """Say what is in a corpus."""

    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
    """The corpus: a folder, s3://bucket/prefix or https://host/path."""
    json: bool = False
    """As one JSON object."""

    def run(self) -> None:
        """Print it."""
        from understudy.shards.info import as_json, as_text, describe

        description = describe(parse_address(self.corpus))
        print(as_json(description) if self.json else as_text(description))

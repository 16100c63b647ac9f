"""`understudy info`: what a corpus holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Info:
    """Say what is in a corpus."""

    corpus: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
    """The corpus folder."""
    json: bool = False
    """As one JSON object."""

    def run(self) -> None:
        """Print it."""
        from understudy.shards.info import as_json, as_text, describe

        description = describe(self.corpus)
        print(as_json(description) if self.json else as_text(description))

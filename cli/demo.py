"""`understudy demo`: make the embedded corpora."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class Demo:
    """Generate the four demo corpora: no humans, virtual humans, and two of other actions to test transfer on."""

    out: Positional[Path]
    """Folder for them; each corpus becomes a folder in it."""
    clips: int = 1000
    """Clips in each pre-training corpus; the two of held-out actions have 40 % of that each."""
    seed: int = 0
    """The same seed gives the same bytes."""
    workers: int | None = None
    """Processes that draw. Default: one per core."""

    def run(self) -> None:
        """Make what is missing, and say where it lies."""
        from understudy.shards.demo import DEMO_CORPORA, make_demo

        make_demo(self.out, self.clips, self.seed, self.workers)
        for corpus in DEMO_CORPORA:
            print(self.out / corpus.name)

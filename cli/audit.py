"""`understudy audit`: what is left of people in a corpus, with a bound, and what else it gives away."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from understudy.privacy.detectors import AUDIT_DEFAULT
from understudy.shards.errors import UserError
from understudy.shards.machine import usable_cores
from understudy.shards.remote import parse_address


@dataclass(frozen=True)
class Audit:
    """Look for people left in a corpus, and for everything that is not pixels. Writes audit.json and CORPUS-audit.html.

    CORPUS may be one of ours, a folder of WebDataset tars, or a folder of videos. Without canaries (videos that are
    known to show people) there are counts but no bound, as nobody knows what the detectors miss. Exit status 1 if
    anything besides pixels is found.
    """

    corpus: Annotated[str, tyro.conf.Positional, arg(metavar="CORPUS")]
    """A corpus (folder, s3://bucket/prefix or https://host/path), or a folder of tars or videos."""
    canaries: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Local folder of videos, or corpora, of people in every frame. Each folder in it is a group; the worst counts."""
    half_canaries: bool = False
    """Also show the canaries at half their size, as small people are missed first."""
    detectors: tuple[str, ...] = AUDIT_DEFAULT
    """NAME or NAME:WEIGHTS: openimages, body-parts, mtcnn, pose, palm, face, text, torchvision, transformers."""
    tiles: tuple[int, ...] = (1, 2)
    """Scales: each n looks at n x n overlapping parts of the frame."""
    every: int = 1
    """Look at one frame in n, drawn at random."""
    clips: int = 0
    """Number of clips to look at, drawn at random; 0 for all."""
    confidence: float = 0.95
    """Confidence of the upper bounds, from 0.5 to below 1; training with --require-audit asks for 0.95."""
    names: Annotated[Path | None, arg(metavar="FILE")] = None
    """Names of the sources, one per line: none may occur in a shard, or be what a key is a plain hash of."""
    attribute: Annotated[Path | None, arg(metavar="FILE")] = None
    """Lines `KEY,VALUE` with something about the person in a sample, to see whether the traces give it away."""
    out: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: see below)")] = None
    """Existing folder for audit.json and the page audit.html, which shows frames and is not for publishing.
    By default audit.json goes into the corpus, and the page beside it as CORPUS-audit.html."""
    fps: float = 6.0
    """Frames per second at which videos that are not packed are looked at."""
    short_side: int = 360
    """Their short side in pixels."""
    seed: int = 0
    """Seed for drawing clips and frames."""
    device: str = "cpu"
    """Device of the detectors that torch runs (mtcnn, torchvision, transformers): cpu or cuda."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one per core, one on cuda)")] = None
    """Processes that look; 0 to look in this one."""

    def run(self) -> None:
        """Do it, and say on standard output what came of it."""
        from understudy.privacy.audit import AuditConfig
        from understudy.privacy.audit_run import page_place, read_attribute, read_names, run_audit
        from understudy.privacy.report import summary

        root = parse_address(self.corpus)
        if self.out is None and not isinstance(root, Path):
            raise UserError(f"{root}: lies elsewhere; name a folder for the audit with --out")
        out = self.out if self.out is not None else Path(self.corpus)
        for name, value in (("every", self.every), ("fps", self.fps), ("short-side", self.short_side)):
            if value <= 0:
                raise UserError(f"--{name} {value}: say a number above 0")
        if not 0.5 <= self.confidence < 1 or self.clips < 0 or any(count < 1 for count in self.tiles):
            raise UserError("--confidence is from 0.5 to below 1, --clips at least 0, --tiles at least 1")
        workers = self.workers
        if workers is None:
            workers = 1 if self.device != "cpu" else usable_cores()
        config = AuditConfig(
            detectors=self.detectors,
            tiles=self.tiles,
            every=self.every,
            clips=self.clips,
            confidence=self.confidence,
            seed=self.seed,
            device=self.device,
        )
        body = run_audit(
            root,
            out,
            config,
            canaries=self.canaries,
            halves=self.half_canaries,
            names=read_names(self.names) if self.names else (),
            attribute=read_attribute(self.attribute) if self.attribute else None,
            fps=self.fps,
            short_side=self.short_side,
            workers=workers,
        )
        print(summary(body))
        print(page_place(root, out))
        if body["findings"]:
            sys.exit(1)

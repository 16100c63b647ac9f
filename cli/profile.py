"""`understudy profile`: which stage of the loader bounds it here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from understudy.shards.errors import UserError
from understudy.shards.remote import parse_address

if TYPE_CHECKING:
    from understudy.loader.profile import Profile as Figures

TRACED = 48  # batches
LONGEST_S = 3600


@dataclass(frozen=True)
class Profile:
    """Time each stage of the loader alone, then all together, and show which one is the bottleneck."""

    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
    """The corpus: a folder, s3://bucket/prefix or https://host/path."""
    decoder: str = "auto"
    """auto, native, plain, dali or reference."""
    views: int = 4
    """Crops per decoded window."""
    batch_size: int = 32
    """Crops per batch."""
    threads: int = 0
    """Threads that read and decode; 0 for one per core."""
    frames: int = 16
    """Frames per clip."""
    size: int = 224
    """Side of a clip in pixels."""
    device: str = "auto"
    """Where clips go: cpu, cuda, or auto for a GPU if there is one."""
    seconds: float = 3.0
    """How long to time each stage, in seconds."""
    out: Path | None = None
    """Also write the figures to this file, as JSON."""
    trace: Path | None = None
    """Write a trace of the first 48 batches to this file, for https://ui.perfetto.dev."""

    def run(self) -> None:
        """Do it."""
        import json
        import sys
        from dataclasses import asdict

        import torch

        from understudy.loader.batch import default_threads
        from understudy.loader.profile import Pipeline, profile, trace_batches
        from understudy.loader.views import Clip, Views
        from understudy.shards.corpus import Corpus
        from understudy.shards.files import write_atomic

        self._check()
        gpu = torch.cuda.is_available()
        if self.device == "cuda" and not gpu:
            raise UserError("--device cuda: no GPU that PyTorch can use here; leave it out, or say cpu")
        pipeline = Pipeline(
            Corpus.open(parse_address(self.corpus)),
            Clip(frames=self.frames, size=self.size),
            Views(count=self.views),
            self.batch_size,
            self.decoder,
            self.threads or default_threads(),
            ("cuda" if gpu else "cpu") if self.device == "auto" else self.device,
        )
        if self.trace:
            write_atomic(self.trace, trace_batches(pipeline, TRACED).encode())
        say = (lambda name: print(f"timing: {name}", file=sys.stderr)) if sys.stderr.isatty() else (lambda _: None)
        figures = profile(pipeline, self.seconds, say)
        print(as_text(figures))
        if self.out:
            write_atomic(self.out, (json.dumps(asdict(figures), indent=1) + "\n").encode())

    def _check(self) -> None:
        """Raise UserError at the first setting that makes no sense, before any work."""
        if self.threads < 0:
            raise UserError(f"--threads {self.threads}: say at least 1, or 0 for one a core")
        if not 0 < self.seconds <= LONGEST_S:
            raise UserError(f"--seconds {self.seconds:g}: say more than 0, and at most {LONGEST_S}")
        for option in ("views", "batch_size", "frames", "size"):
            if getattr(self, option) < 1:
                raise UserError(f"--{option.replace('_', '-')} {getattr(self, option)}: say at least 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {self.device}: say auto, cpu or cuda")
        for path in (self.out, self.trace):
            if path is not None and not path.parent.is_dir():
                raise UserError(f"{path.parent}: no such folder for {path.name}; make it first")
            if path is not None and path.is_dir():
                raise UserError(f"{path}: is a folder; give a file")


WHAT = {
    "order": "which samples come next",
    "read": "encoded bytes from shards, checked",
    "decode": "bytes to clips",
    "deliver": "batches to the device",
    "whole": "all at once, as in training",
}


def as_text(figures: Figures) -> str:
    """A table of the stages and one sentence."""
    lines = [
        f"{figures.corpus}: {figures.codec}, decoder {figures.decoder}, {figures.threads} threads, to {figures.device}",
        f"batches of {figures.batch_size}, {figures.views} views of each window, "
        f"{figures.clip.frames} frames of {figures.clip.size} x {figures.clip.size}; a sample is one view",
        "",
        f"{'stage':10}{'samples/s':>12}{'CPU ms/sample':>16}{'share':>8}",
    ]
    for stage in (*figures.stages, figures.whole):
        share = f"{stage.share:.0%}" if stage is not figures.whole else ""
        mark = "  <- the slowest" if stage.name == figures.bound else ""
        rate = f"{stage.samples_per_second:,.0f}"
        lines.append(f"{stage.name:10}{rate:>12}{stage.cpu_ms_per_sample:>16.3f}{share:>8}  {WHAT[stage.name]}{mark}")
    [slowest] = [stage for stage in figures.stages if stage.name == figures.bound]
    reached = figures.whole.samples_per_second / slowest.samples_per_second
    lines += ["", f"{figures.bound} bounds this loader; all together reach {reached:.0%} of what it does alone"]
    if figures.failed:
        lines.append(f"{figures.failed} videos could not be used; find them with: understudy lint")
    return "\n".join(lines)

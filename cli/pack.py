"""`understudy pack`: a folder of class folders, or a list of files, into a corpus."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from understudy.shards.errors import UserError
from understudy.shards.manifest import Codec, Kind

SECRET = "~/.config/understudy/secret"  # as help shows it; XDG_CONFIG_HOME is honoured


@dataclass(frozen=True)
class Pack:
    """Pack videos into a corpus of shards. Killed or out of space, run it again: it goes on where it stopped."""

    source: Annotated[Path, tyro.conf.Positional, arg(metavar="SOURCE")]
    """A folder of class folders, or a text file with `path;label` a line."""
    out: Annotated[Path, tyro.conf.Positional, arg(metavar="OUT")]
    """The corpus: a new folder."""
    kind: Kind
    """What is in the videos: people removed, virtual people, or real people."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the name of OUT)")] = None
    """Name of the corpus, and of its shards."""
    licence: str = "unknown"
    """The licence under which the videos may be used, as the manifest will say."""
    codec: Codec = "mjpeg"
    """mjpeg is the fastest to read; h264 takes a third of the bytes."""
    fps: float = 6.0
    """Frames a second to store."""
    short_side: int = 256
    """Pixels of the shorter side to store."""
    quality: int = 85
    """JPEG quality, 1 to 100; for h264 the comparable rate factor."""
    samples_per_shard: int = 256
    """Sources that go into one shard."""
    classes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: from SOURCE)")] = None
    """File of class names, one a line, in label order."""
    root: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the list's own)")] = None
    """Folder that a list's paths are relative to."""
    secret_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=f"(default: {SECRET})")] = None
    """Secret that sample keys are made with; made where there is none."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one a core)")] = None
    """Decoding processes."""

    def run(self) -> None:
        """Do it, and say on standard output what came of it."""
        from functools import partial

        from understudy.shards.collect import collect
        from understudy.shards.ingest import read_video
        from understudy.shards.keys import default_secret_path, load_secret
        from understudy.shards.manifest import MANIFEST, REFUSED
        from understudy.shards.pack import PackConfig, pack

        workers = len(os.sched_getaffinity(0)) if self.workers is None else self.workers
        if workers < 0:
            raise UserError(f"{workers} workers: say at least 1, or 0 to decode in this process")
        sources, classes = collect(self.source, self.out, root=self.root, classes_file=self.classes)
        secret_file = self.secret_file or default_secret_path()
        secret, created = load_secret(secret_file)
        if created:
            print(
                f"understudy: made {secret_file}, the secret that sample keys hang on; "
                "keep it to extend or remake a corpus, and don't publish it",
                file=sys.stderr,
            )
        config = PackConfig(
            name=self.name or self.out.resolve().name,
            kind=self.kind,
            classes=classes,
            licence=self.licence,
            codec=self.codec,
            fps=self.fps,
            short_side=self.short_side,
            quality=self.quality,
            samples_per_shard=self.samples_per_shard,
            secret=secret,
        )
        read = partial(read_video, fps=self.fps, short_side=self.short_side)
        already = (self.out / MANIFEST).exists()
        manifest = pack(sources, read, self.out, config, workers=workers)
        refused = f", {manifest.refused} refused (see {self.out / REFUSED})" if manifest.refused else ""
        print(
            f"{self.out}: {'already packed, ' if already else ''}{manifest.nsamples} samples "
            f"in {len(manifest.shards)} shard{'s' * (len(manifest.shards) != 1)}{refused}"
        )

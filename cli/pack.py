"""`understudy pack`: a folder of class folders, or a list of files, into a corpus."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from understudy.shards.errors import UserError
from understudy.shards.manifest import Codec, Kind
from understudy.shards.remote import Remote, parse_address

SECRET = "~/.config/understudy/secret"  # as help shows it; XDG_CONFIG_HOME is honoured
WORK = "~/.cache/understudy-packing"  # XDG_CACHE_HOME likewise


@dataclass(frozen=True)
class Pack:
    """Pack videos into a corpus of shards. Killed or out of space, run it again: it goes on where it stopped."""

    source: Annotated[Path, tyro.conf.Positional, arg(metavar="SOURCE")]
    """A folder of class folders, or a text file with `path;label` a line."""
    out: Annotated[str, tyro.conf.Positional, arg(metavar="OUT")]
    """The corpus: a new folder, or s3://bucket/prefix, to which it is copied when it is finished here."""
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
    work: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint=f"(default: in {WORK})")] = None
    """Folder to pack in before it is copied to s3://; holds the whole corpus, and is empty again at the end."""
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
        from understudy.shards.publish import pack_into_bucket, published, refused_list

        out = parse_address(self.out)
        if isinstance(out, Path) and self.work is not None:
            raise UserError("--work is for packing to s3:// only; leave it out")
        work = out if isinstance(out, Path) else self.work or default_work(out)
        workers = len(os.sched_getaffinity(0)) if self.workers is None else self.workers
        if workers < 0:
            raise UserError(f"{workers} workers: say at least 1, or 0 to decode in this process")
        sources, classes = collect(self.source, work, root=self.root, classes_file=self.classes)
        secret_file = self.secret_file or default_secret_path()
        secret, created = load_secret(secret_file)
        if created:
            print(
                f"understudy: made {secret_file}, the secret that sample keys hang on; "
                "keep it to extend or remake a corpus, and don't publish it",
                file=sys.stderr,
            )
        config = PackConfig(
            name=self.name or (out.resolve() if isinstance(out, Path) else out).name,
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
        if isinstance(out, Path):
            already, listed = (out / MANIFEST).exists(), out / REFUSED
            manifest = pack(sources, read, out, config, workers=workers)
        else:
            already, listed = published(out) is not None, refused_list(work)
            manifest = pack_into_bucket(sources, read, out, work, config, workers=workers)
        refused = f", {manifest.refused} refused (see {listed})" if manifest.refused else ""
        print(
            f"{out}: {'already packed, ' if already else ''}{manifest.nsamples} samples "
            f"in {len(manifest.shards)} shard{'s' * (len(manifest.shards) != 1)}{refused}"
        )


def default_work(remote: Remote) -> Path:
    """Where a corpus for that address is packed: the same folder each time, so that an interrupted run goes on."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "understudy-packing" / f"{remote.name}-{hashlib.sha256(remote.url.encode()).hexdigest()[:16]}"

"""`understudy pack`: a folder of class folders, a list of files, or a data set by its name, into a corpus."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import arg

from understudy.cli.remove_people import RemovalOptions
from understudy.shards.errors import UserError
from understudy.shards.kinds import Codec, Engine, Kind
from understudy.shards.machine import usable_cores
from understudy.shards.named import Layout, SplitName
from understudy.shards.remote import Remote, parse_address

if TYPE_CHECKING:
    from understudy.shards.sources import Source

SECRET = "~/.config/understudy/secret"  # as help shows it; XDG_CONFIG_HOME is honoured
REMOVAL_PATIENCE_S = 1800.0
WORK = "~/.cache/understudy-packing"  # XDG_CACHE_HOME likewise


@dataclass(frozen=True)
class Pack:
    """Pack videos into a corpus of shards. After a kill or a full disk, the same command resumes."""

    source: Annotated[Path, tyro.conf.Positional, arg(metavar="SOURCE")]
    """A folder of class folders, a text file with `path;label` per line, or with --layout a data set's folder."""
    out: Annotated[str, tyro.conf.Positional, arg(metavar="OUT")]
    """The corpus: a new folder, or s3://bucket/prefix, to which it is copied when it is complete."""
    kind: Annotated[Kind | None, arg(help_behavior_hint="(required without --layout)")] = None
    """What the videos show: no-human (people removed, or none), synthetic (rendered people) or real (real people)."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the name of OUT)")] = None
    """Name of the corpus, and of its shards."""
    licence: str = "unknown"
    """Licence of the videos, for the manifest."""
    codec: Codec = "mjpeg"
    """mjpeg is the fastest to read; h264 takes a third of the bytes."""
    fps: float = 6.0
    """Frames per second to store."""
    short_side: int = 256
    """Shorter side to store, in pixels."""
    quality: int = 85
    """JPEG quality, 1 to 100; for h264 the comparable rate factor."""
    samples_per_shard: int = 256
    """Sources per shard."""
    layout: Layout | None = None
    """Data set whose published split files list the videos, which may be anywhere below SOURCE."""
    split: SplitName = "train"
    """Which split of --layout."""
    fold: Literal[1, 2, 3] = 1
    """Which of the three splits of UCF101 and HMDB51."""
    split_file: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: looked for in SOURCE)")] = None
    """With --layout: its split file or their folder, or a list with `path;label` or `path;1;frames;label` per line."""
    allow_missing: bool = False
    """Pack the videos of a list that exist, and count the others as refused."""
    frame_rate: Annotated[float | None, arg(metavar="FPS", help_behavior_hint="(required for frame folders)")] = None
    """Frames per second of videos that are folders of pictures."""
    classes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: from SOURCE)")] = None
    """File of class names, one per line, in label order. Give train and val the same."""
    root: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the list's own)")] = None
    """Folder that a list's paths are relative to."""
    secret_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=f"(default: {SECRET})")] = None
    """Secret that sample keys are made with, created if missing. Back it up, never publish it."""
    work: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint=f"(default: in {WORK})")] = None
    """For s3:// only: folder to pack in, with room for the whole corpus; removed at the end."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one per core)")] = None
    """Decoding processes on this machine."""
    engine: Engine = "local"
    """Where videos are decoded: by processes here, or on all cores of a Ray cluster (RAY_ADDRESS) that sees them."""

    remove_people: bool = False
    """Remove people first, at each video's own size and at --fps; clips that can't be done safely are refused."""
    removal: RemovalOptions = field(default_factory=RemovalOptions)
    """How to remove people, with --remove-people: the options of `understudy remove-people`."""

    def run(self) -> None:
        """Do it, and say on standard output what came of it."""
        from functools import partial

        from understudy.privacy.removal import read_with_holes, read_without_people
        from understudy.privacy.removal_record import check_kept, check_rate, keeps_holes
        from understudy.shards.collect import MissingVideosError
        from understudy.shards.frame_folders import read_video_or_frames
        from understudy.shards.ingest import read_video
        from understudy.shards.keys import default_secret_path, load_secret
        from understudy.shards.manifest import MANIFEST
        from understudy.shards.pack import PATIENCE_S, PackConfig, pack
        from understudy.shards.plan import refused_list
        from understudy.shards.publish import pack_into_bucket, published

        out = parse_address(self.out)
        if isinstance(out, Path) and self.work is not None:
            raise UserError("--work is for packing to s3:// only; leave it out")
        work = out if isinstance(out, Path) else self.work or default_work(out)
        workers = usable_cores() if self.workers is None else self.workers
        if self.engine == "ray" and self.workers is not None:
            raise UserError("--workers is for this machine; with --engine ray, all cores of the cluster decode")
        if workers < 0:
            raise UserError(f"{workers} workers: say at least 1, or 0 to decode in this process")
        try:
            sources, classes, kind = self._collect(work)
        except MissingVideosError as error:
            if len(error.names) > MissingVideosError.SHOWN:
                print("\n".join(error.names))  # all of them, to be kept in a file; the message has the first
            raise
        folders = sum(source.path is not None and source.path.is_dir() for source in sources)
        if folders and self.frame_rate is None:
            raise UserError(f"{folders} videos are folders of frames, which have no rate; say it with --frame-rate FPS")
        if self.frame_rate is not None and not 0 < self.frame_rate <= 1000:
            raise UserError(f"frame rate {self.frame_rate:g}: say how many frames a second the folders hold")
        secret_file = self.secret_file or default_secret_path()
        secret, created = load_secret(secret_file)
        if created:
            print(
                f"understudy: made {secret_file}, the secret that sample keys hang on; "
                "keep it to extend or remake a corpus, and don't publish it",
                file=sys.stderr,
            )
        record = self._removal_record(kind)
        if self.remove_people:
            self.removal.tell_who_looks()
        elif record is not None:
            check_rate(self.source, self.fps)
            check_kept(self.source, (source.id for source in sources))
        config = PackConfig(
            name=self.name or (out.resolve() if isinstance(out, Path) else out).name,
            kind=kind,
            classes=classes,
            licence=self.licence,
            codec=self.codec,
            fps=self.fps,
            short_side=self.short_side,
            quality=self.quality,
            samples_per_shard=self.samples_per_shard,
            secret=secret,
            removal=record,
        )
        patience_s = PATIENCE_S
        read = partial(read_video, fps=self.fps, short_side=self.short_side)
        if folders:
            read = partial(read_video_or_frames, **read.keywords, source_fps=self.frame_rate)
        if keeps_holes(self.source):
            read = partial(read_with_holes, **read.keywords, folder=self.source)
        if self.remove_people:
            if folders:
                raise UserError("people can't be removed from folders of frames yet; make videos of them first")
            patience_s = REMOVAL_PATIENCE_S  # a whole shot is done before its first frame comes
            read = partial(read_without_people, **read.keywords, removal=self.removal.removal())
        if isinstance(out, Path):
            already = (out / MANIFEST).exists()
            manifest = pack(sources, read, out, config, workers=workers, engine=self.engine, patience_s=patience_s)
        else:
            already = published(out) is not None
            manifest = pack_into_bucket(
                sources, read, out, work, config, workers=workers, engine=self.engine, patience_s=patience_s
            )
        listed = refused_list(work)
        see = f" (see {listed})" if listed.exists() else ""  # not where it was packed elsewhere, or moved
        refused = f", {manifest.refused} refused{see}" if manifest.refused else ""
        print(
            f"{out}: {'already packed, ' if already else ''}{manifest.nsamples} samples "
            f"in {len(manifest.shards)} shard{'s' * (len(manifest.shards) != 1)}{refused}"
        )

    def _removal_record(self, kind: Kind) -> dict[str, Any] | None:
        """How people are removed now, or were when `understudy remove-people` made SOURCE."""
        from understudy.privacy.removal import describe
        from understudy.privacy.removal_record import read_record

        if not self.remove_people:
            return read_record(self.source)
        if kind != "no-human":
            raise UserError(f"--remove-people makes videos without people; say --kind no-human, not {kind}")
        if read_record(self.source) is not None:
            raise UserError(f"{self.source}: people are removed from these videos already; leave out --remove-people")
        return describe(self.removal.removal())

    def _collect(self, out: Path) -> tuple[list[Source], tuple[str, ...], Kind]:
        """What there is to pack; differences from what was published are told on standard error."""
        from understudy.privacy.removal_record import kept_classes
        from understudy.shards.collect import MissingVideosError, collect, read_classes
        from understudy.shards.named import NAMED, find_named

        if self.layout is None:
            if self.kind is None:
                raise UserError("say what is in the videos: --kind no-human, synthetic or real")
            if self.split_file is not None:
                raise UserError("--split-file is for --layout; a list of your own goes in place of SOURCE")
            files = collect(
                self.source,
                out,
                root=self.root,
                classes_file=self.classes,
                folder_classes=kept_classes(self.source),
                allow_missing=self.allow_missing,
            )
            return *files, self.kind
        if self.root is not None:
            raise UserError("--root is for list files; with --layout, SOURCE is the folder of the videos")
        classes = None if self.classes is None else read_classes(self.classes)
        found = find_named(self.layout, self.split, self.source, self.split_file, classes, self.fold)
        for note in found.notes:
            print(f"understudy: {note}", file=sys.stderr)
        if found.missing and not self.allow_missing:
            raise MissingVideosError(f"{self.layout} {self.split}", self.source, found.missing, len(found.sources))
        return list(found.sources), found.classes, self.kind or NAMED[self.layout].kind


def default_work(remote: Remote) -> Path:
    """Where a corpus for that address is packed: the same folder each time, so that an interrupted run goes on."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "understudy-packing" / f"{remote.name}-{hashlib.sha256(remote.url.encode()).hexdigest()[:16]}"

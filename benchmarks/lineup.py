"""Who takes part: one entry a loader and source format, and from these the specs of the rows. No measuring here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import corpora
from corpora import Material
from spec import SAMPLED_FPS, SourceFormat, Spec, corpus_draws, draw_table
from summary import KERNEL, NATIVE, PYAV, WORKERS

from understudy.loader.philox import stream_key
from understudy.shards.corpus import Corpus

VIDEOS_PER_BATCH = 8


@dataclass(frozen=True)
class Entry:
    """A loader on one kind of source. `peer` is its file in peers/, `quick` the views that --quick measures it with."""

    loader: str
    peer: str
    source_format: SourceFormat
    quick: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is ours. Ours resizes in one way only, the peers can antialias."""
        return self.peer in ("ours", "kernel")


_NATIVE, _PLAIN = {"decoder": "native"}, {"decoder": "plain"}
_IMAGES, _VIDEO = {"graph": "images"}, {"graph": "video"}

ENTRIES = (
    Entry(NATIVE, "ours", "mjpeg", (1, 4), _NATIVE),
    Entry("understudy without a compiler", "ours", "mjpeg", (), _PLAIN),
    Entry(f"{NATIVE}, avx512", "ours", "mjpeg", (4,), _NATIVE, {"UNDERSTUDY_KERNEL": "avx512"}),
    Entry(f"{NATIVE}, avx2", "ours", "mjpeg", (4,), _NATIVE, {"UNDERSTUDY_KERNEL": "avx2"}),
    Entry(KERNEL, "kernel", "mjpeg", (1, 4)),
    Entry(WORKERS, "jpeg_workers", "mjpeg", (1,)),
    Entry("threads + simplejpeg", "jpeg_threads", "mjpeg", (4,)),
    Entry("webdataset + simplejpeg", "webdataset", "mjpeg"),
    Entry("SPDL + simplejpeg", "spdl", "mjpeg", (4,)),
    Entry("LitData + simplejpeg", "litdata", "mjpeg"),
    Entry("Mosaic Streaming + simplejpeg", "mosaic", "mjpeg"),
    Entry("Megatron-Energon + simplejpeg", "energon", "mjpeg"),
    Entry("DALI, image decoder", "dali", "mjpeg", (4,), _IMAGES),
    Entry("DALI, video decoder", "dali", "mjpeg", (), _VIDEO),
    Entry(NATIVE, "ours", "h264", (4,), _NATIVE),
    Entry("understudy without a compiler", "ours", "h264", (), _PLAIN),
    Entry(KERNEL, "kernel", "h264", (4,)),
    Entry(PYAV, "pyav", "h264"),
    Entry("DataLoader + torchcodec", "torchcodec", "h264"),
    Entry("DataLoader + decord", "decord", "h264"),
    Entry("DataLoader + OpenCV", "opencv", "h264"),
    Entry("SPDL", "spdl", "h264", (4,)),
    Entry("DALI, video decoder", "dali", "h264", (), _VIDEO),
    Entry(PYAV, "pyav", "original", (1, 4)),
    Entry("DataLoader + torchcodec", "torchcodec", "original"),
    Entry("DataLoader + decord", "decord", "original"),
    Entry("DataLoader + OpenCV", "opencv", "original"),
    Entry("SPDL", "spdl", "original", (4,)),
    Entry("DALI, video decoder", "dali", "vp9", (), _VIDEO),
    Entry("threads + raw RGB map", "rawmap", "raw"),
    Entry("FFCV", "ffcv", "raw"),
)


@dataclass(frozen=True)
class _Sources:
    """What the loaders of one source format read, whatever the views. `fps` is that of each file."""

    corpus: Corpus | None
    files: tuple[Path, ...]
    fps: list[float]
    tag: str  # names the draws and converted copies made of it


def make_specs(
    entries: Sequence[Entry], views: Sequence[int], material: Material, work: Path, threads: int, antialias: bool
) -> list[Spec]:
    """The rows of `entries` for each number of views, as far as there is material; what they read is made in `work`."""
    formats: list[SourceFormat] = []
    for entry in entries:
        if entry.source_format not in formats:
            formats.append(entry.source_format)
    sources = {source_format: _sources(source_format, material, work) for source_format in formats}
    specs: list[Spec] = []
    for number in views:
        for entry in entries:
            found = sources[entry.source_format]
            if found is None:
                continue
            specs.append(
                Spec(
                    loader=entry.loader,
                    peer=f"peers.{entry.peer}",
                    source_format=entry.source_format,
                    views=number,
                    threads=threads,
                    videos=VIDEOS_PER_BATCH,
                    draws=str(_draws(found, number, work)),
                    corpus=str(found.corpus.root) if found.corpus else "",
                    files=tuple(str(path.absolute()) for path in found.files),
                    converted=str(work / "converted" / f"{entry.peer}-{found.tag}"),
                    antialias=antialias,
                    options={**entry.options, "fps": found.fps},
                    env=entry.env,
                )
            )
    return specs


def _sources(source_format: SourceFormat, material: Material, work: Path) -> _Sources | None:
    if source_format == "original":
        if not material.originals:
            return None
        fps = corpora.probe(material.originals).fps.tolist()
        return _Sources(None, material.originals, fps, f"{material.made_from}-{len(material.originals)}")
    codec = "h264" if source_format == "h264" else "mjpeg"
    if codec not in material.packed:
        return None
    corpus = Corpus.open(material.packed[codec])
    files: tuple[Path, ...] = ()
    if source_format == "h264":
        files = corpora.h264_files(corpus, work)
    elif source_format == "vp9":
        files = corpora.vp9_files(corpus, work)
    elif source_format == "raw":
        files = (corpora.raw_map(corpus, work),)
    return _Sources(corpus, files, [corpus.manifest.fps] * len(corpus), corpus.manifest.digest[:16])


def _draws(sources: _Sources, views: int, work: Path) -> Path:
    """The file with the table of draws."""
    path = work / "draws" / f"{sources.tag}-{views}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if sources.corpus:
        corpus_draws(sources.corpus, views).save(path)
    else:
        probed = corpora.probe(sources.files)
        key = stream_key("benchmark originals")
        draw_table(key, probed.frames, probed.sizes, views, probed.fps / SAMPLED_FPS).save(path)
    return path

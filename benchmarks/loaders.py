"""Our loader and what a user would pick instead, on the same clips: first whether the pixels agree, then how fast.

    python benchmarks/loaders.py --out results/loaders.json [--quick] [--only NAME ...]

One loader runs at a time, in a process of its own, started anew for each round; a round is a turn of each, so that what
the machine does beside hits all alike. chart.py draws what this writes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpora
import numpy as np
from corpora import Material
from ffmpeg import ffmpeg_environment
from lineup import ENTRIES, VIDEOS_PER_BATCH, make_specs
from machine import processor, versions
from runner import FailedError, Runner
from spec import Spec
from summary import ratios, summarised
from truth import Agreement, agreement

from understudy.loader.native import native_status
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.kinds import Codec

HERE = Path(__file__).parent
VIDEOS = HERE.parents[1] / "shared" / "videos"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "understudy" / "benchmarks"
CHECKED = 8  # videos of each row whose pixels are compared

PACKAGES = (
    "understudy",
    "torch",
    "torchvision",
    "numpy",
    "av",
    "simplejpeg",
    "opencv-python-headless",
    "torchcodec",
    "decord",
    "spdl",
    "nvidia-dali-cuda130",
    "webdataset",
    "litdata",
    "mosaicml-streaming",
    "megatron-energon",
    "ffcv",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    args = _arguments(arguments)
    try:
        result = _soak(args) if args.soak else _compare(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, (json.dumps(result, indent=1) + "\n").encode())
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--corpus", type=Path, nargs="+", help="packed corpora, one a codec (default: made here)")
    parser.add_argument("--originals", type=Path, help="folder with the videos that they were packed from")
    parser.add_argument(
        "--work", type=Path, default=CACHE, help="where what is made here is kept (default: %(default)s)"
    )
    parser.add_argument("--clips", type=int, help="clips to make (default: 64, with --quick 16)")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4], help="crops a decode (default: 1 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads or workers, and cores, of each (default: 2)")
    parser.add_argument("--rounds", type=int, help="rounds (default: 6, the fewest for 95 %%; with --quick 3)")
    parser.add_argument("--seconds", type=float, help="seconds a round (default: 2.5, with --quick 1.5)")
    parser.add_argument("--quick", action="store_true", help="only the rows that the targets need, in under 3 minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only loaders with one of these in their name")
    parser.add_argument("--antialias", action="store_true", help="antialiased resizing, by the peers that can")
    parser.add_argument("--soak", action="store_true", help="how memory grows over 200,000 samples, and nothing else")
    args = parser.parse_args(arguments)
    args.clips = args.clips or (16 if args.quick else 64)
    args.rounds = args.rounds or (3 if args.quick else 6)
    args.seconds = args.seconds or (1.5 if args.quick else 2.5)
    return args


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    started = time.time()
    material = _material(args)
    entries = [entry for entry in ENTRIES if not (args.antialias and entry.own)]
    if args.only:
        entries = [entry for entry in entries if any(name.lower() in entry.loader.lower() for name in args.only)]
    if args.quick:
        entries = [entry for entry in entries if set(entry.quick) & set(args.views)]
    specs = make_specs(entries, args.views, material, args.work, args.threads, args.antialias)
    if args.quick:
        measured = {(entry.loader, entry.source_format, views) for entry in entries for views in entry.quick}
        specs = [spec for spec in specs if (spec.loader, spec.source_format, spec.views) in measured]
    if not specs:
        raise UserError("no loader has such a name, or there is no corpus for it; see ENTRIES in lineup.py")
    rows = [summarised(row) for row in _measure(specs, args.rounds, args.seconds, args.work)]
    return {
        "benchmark": "loaders",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "took_seconds": round(time.time() - started),
        "machine": _machine(args.threads),
        "versions": versions(PACKAGES),
        "settings": {
            "videos_per_batch": VIDEOS_PER_BATCH,
            "rounds": args.rounds,
            "seconds_per_round": args.seconds,
            "threads": args.threads,
            "antialias": args.antialias,
            "clip": "16 frames over 2.67 s to 224 x 224, RandomResizedCrop(0.5-1, 3/4-4/3), bilinear",
        },
        "material": _described(material),
        "ratios": ratios(rows),
        "rows": rows,
    }


def _material(args: argparse.Namespace) -> Material:
    if not args.corpus:
        return corpora.make_material(args.work, args.clips, VIDEOS if (VIDEOS / "manifest.csv").is_file() else None)
    packed: dict[Codec, Path] = {Corpus.open(path).manifest.codec: path for path in args.corpus}
    originals = sorted(path for path in args.originals.rglob("*") if path.is_file()) if args.originals else []
    return Material(packed, tuple(originals), "given")


def _measure(specs: Sequence[Spec], rounds: int, seconds: float, work: Path) -> list[dict[str, Any]]:
    """Compare the pixels of each loader, then time those that run, round by round in turn."""
    rows = [_empty_row(spec) for spec in specs]
    with Runner(ffmpeg_environment(work / "ffmpeg")) as runner:
        for row, spec in zip(rows, specs):
            try:
                tasks, clips = runner.check(spec, CHECKED)
                _judge(row, agreement(spec, tasks, clips))
            except FailedError as error:
                row["note"] = str(error)
            row["bytes_per_clip"] = _bytes_per_clip(spec)
            _say(f"{spec.name}: {row['note'] or 'the same pixels'}")
        for number in range(rounds):
            for row, spec in zip(rows, specs):
                if row["same_frames"] is None:
                    continue
                try:
                    row["rounds"].append(runner.round(spec, seconds))
                except FailedError as error:
                    row.update(same_frames=None, rounds=[], note=str(error))
                    _say(f"{spec.name}: {error}")
            _say(f"round {number + 1} of {rounds} done")
    return rows


def _empty_row(spec: Spec) -> dict[str, Any]:
    ours = spec.peer in ("peers.ours", "peers.kernel")
    return {
        "loader": spec.loader,
        "kind": "own" if ours else "peer",
        "source_format": spec.source_format,
        "views": spec.views,
        "threads": spec.threads,
        "antialias": spec.antialias,
        "bytes_per_clip": None,
        "matches_reference": None,
        "same_frames": None,
        "mean_difference": None,
        "percentile_99_difference": None,
        "note": None,
        "rounds": [],
    }


def _judge(row: dict[str, Any], found: Agreement) -> None:
    row.update(
        matches_reference=found.matches,
        same_frames=found.same_frames,
        mean_difference=round(found.mean, 4),
        percentile_99_difference=found.percentile_99,
    )
    if not found.same_frames:
        row["note"] = "other frames or crops than the reference's"
    elif not found.matches:
        row["note"] = "the same frames and crops, by another conversion to RGB"


def _bytes_per_clip(spec: Spec) -> int | None:
    """Bytes on disk of what the loader reads, for each clip."""
    if spec.source_format == "raw" or spec.files:
        paths = [Path(path) for path in spec.files]
    elif Path(spec.converted, ".done").exists():
        paths = [path for path in Path(spec.converted).rglob("*") if path.is_file()]
    else:
        corpus = Corpus.open(spec.corpus)
        paths = [corpus.shard_path(number) for number in range(len(corpus.manifest.shards))]
    sizes = {path.stat().st_ino: path.stat().st_size for path in paths}  # what is linked twice counts once
    clips = len(Corpus.open(spec.corpus)) if spec.corpus else len(spec.files)
    return round(sum(sizes.values()) / clips) if clips else None


def _described(material: Material) -> dict[str, Any]:
    described: dict[str, Any] = {"made_from": material.made_from, "originals": len(material.originals)}
    for codec, root in material.packed.items():
        corpus = Corpus.open(root)
        described[codec] = {
            "clips": len(corpus),
            "frames": int(corpus.frames.sum()),
            "fps": corpus.manifest.fps,
            "short_side": corpus.manifest.short_side,
            "median_width": int(np.median(corpus.width)),
            "digest": corpus.manifest.digest,
        }
    return described


def _machine(threads: int) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_used": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_average_after": os.getloadavg()[0],
        "decoder": native_status(),
    }


def _soak(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for codec in ("mjpeg", "h264"):
        done = subprocess.run(
            [sys.executable, HERE / "soak.py", codec, str(args.threads)], stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise UserError(f"the run over {codec} shards failed; its message is above")
        rows.append(json.loads(done.stdout))
    return {"benchmark": "soak", "machine": _machine(args.threads), "versions": versions(PACKAGES), "rows": rows}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""How fast people are removed, in frames a second for each stage and in total, and how well, on the demo's clips.

    python benchmarks/removal.py --out removal.json [--segmenter mediapipe] [--weights PATH] [--videos FILE ...]
    python benchmarks/removal.py --out removal.json --parts true-masks      # a part alone; the others' results stay

speed: each stage by itself, one thread, on the same frames; then whole clips go through `remove_from_all`, a process a
core. Without --videos the clips are the demo's, enlarged to 320x240: their figures are people to the networks too.
true-masks: how far the filling is from the scene without its person, given exact masks. segmenter: how much of the
people the segmenter's masks hold, and which clips are kept, on the demo's clips enlarged to 384x288.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import processor, versions
from numpy.typing import NDArray

from understudy.privacy.background import behind, belongings
from understudy.privacy.fill import Shot, background
from understudy.privacy.masks import solid, widened
from understudy.privacy.removal import Removal, Summary, remove_from_all, tools
from understudy.privacy.remove import BATCH, REACH, SURE, Limits, Settings, Tally, remove_from_shot, remove_people
from understudy.privacy.stabilise import camera_motion
from understudy.privacy.track import follow
from understudy.shards.demo import FPS, demo_sources, read_demo, render
from understudy.shards.encode import encode
from understudy.shards.ingest import native, read_video
from understudy.shards.machine import usable_cores
from understudy.shards.sources import Source

HEIGHT = 240
ROUNDS = 3
PARTS = ("speed", "true-masks", "segmenter")
CORPORA = ("demo-actions-train", "demo-synthetic")
DIFFERS = 24  # grey levels by which a pixel of a person, or of a shadow, clearly differs from the empty scene
PAINTS = ((255, 0, 255), (0, 255, 0), (0, 255, 255), (255, 255, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results")
    parser.add_argument("--segmenter", default="mediapipe", choices=("mediapipe", "maskrcnn", "transformers"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--videos", type=Path, nargs="*", help="default: clips of the demo")
    parser.add_argument("--frames", type=int, default=48, help="frames for the stages")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--clips", type=int, default=16, help="of each corpus, for true-masks and segmenter")
    options = parser.parse_args()
    removal = Removal(segmenter=options.segmenter, weights=options.weights, device=options.device)
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    measured_with = {
        "machine": {"cpu": processor(), "cores": usable_cores(), "load": os.getloadavg()},
        "versions": versions(["understudy", "opencv-python-headless", "numpy"]),
        "segmenter": options.segmenter,
        "device": options.device,
    }
    # For each part, as the others may have been measured elsewhere.
    result["parts"] = result.get("parts", {}) | dict.fromkeys(options.parts, measured_with)
    if "speed" in options.parts:
        with tempfile.TemporaryDirectory(prefix="removal-") as work:
            videos = options.videos or _demo_videos(Path(work), 2 * options.workers)
            result["stages"] = _stages(videos[0], removal, options.frames)
            result["total"] = _total(videos, removal, options.workers, Path(work))
        for name, stage in result["stages"].items():
            print(f"{name:12} {stage['frames_per_second']:8.1f} frames/s on one core")
        total = result["total"]
        print(f"{'total':12} {total['frames_per_second']:8.1f} frames/s, {total['workers']} processes, {total['size']}")
    with ProcessPoolExecutor(options.workers) as pool:
        if "true-masks" in options.parts:
            result["true_masks"] = {
                corpus: _filling(list(pool.map(_with_true_masks, [corpus] * options.clips, range(options.clips))))
                for corpus in CORPORA
            }
            _show(result["true_masks"])
        if "segmenter" in options.parts:
            work_on = partial(_with_segmenter, removal)
            result["segmenter_masks"] = {
                corpus: _finding(list(pool.map(work_on, [corpus] * options.clips, range(options.clips))))
                for corpus in CORPORA
            }
            _show(result["segmenter_masks"])
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def _show(corpora: dict[str, Any]) -> None:
    for name, part in corpora.items():
        print(name, json.dumps({key: value for key, value in part.items() if key != "each"}, indent=1))


def _demo_videos(folder: Path, count: int) -> list[Path]:
    paths = []
    for number, source in enumerate(demo_sources("demo-actions-train", count)):
        frames = [
            cv2.resize(frame, (320, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
            for frame in read_demo(source, seed=0)
        ]
        paths.append(folder / f"{number}.mp4")
        paths[-1].write_bytes(encode(iter(frames), "h264", fps=8, quality=90).members["mp4"])
    return paths


def _stages(video: Path, removal: Removal, count: int) -> dict[str, Any]:
    """Median frames a second of each stage over ROUNDS, and the share of a frame's time that it takes."""
    segment, _, _ = tools(removal)
    assert segment is not None
    source = Source("video", 0, video)
    rate, short_side = native(source)
    frames = np.stack([frame for _, frame in zip(range(count), read_video(source, fps=rate, short_side=short_side))])
    found = [segment(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
    probability = np.concatenate([part.probability for part in found])
    people = solid(probability > removal.settings.threshold)
    holes, zone = widened(people), widened(people, REACH)
    motion = camera_motion(frames, holes)
    seen_behind, seen = behind(frames, zone, ~zone, people, motion)
    stages: dict[str, Callable[[], object]] = {
        "read": lambda: list(read_video(source, fps=rate, short_side=short_side)),
        "segment": lambda: [segment(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)],
        "masks": lambda: (solid(people), widened(people), widened(people, REACH)),
        "camera": lambda: camera_motion(frames, holes),
        "follow": lambda: follow(people, people & (probability > SURE), frames, motion, rate),
        "background": lambda: behind(frames, zone, ~zone, people, motion),
        "belongings": lambda: belongings(frames, holes, seen_behind, seen),
        "fill": lambda: background(Shot(frames, holes, seen_behind, seen, motion)),
        "encode": lambda: encode(iter(frames), "h264", fps=rate, quality=98),
    }
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(ROUNDS):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            times[name].append(time.perf_counter() - start)
    read = len(list(read_video(source, fps=rate, short_side=short_side)))
    return {
        name: {"frames_per_second": (read if name == "read" else len(frames)) / statistics.median(seconds)}
        for name, seconds in times.items()
    }


def _total(videos: list[Path], removal: Removal, workers: int, work: Path) -> dict[str, Any]:
    """Whole clips, workers already started being part of it: frames a second by the wall clock."""
    sources = [Source(f"{number}{video.suffix}", 0, video) for number, video in enumerate(videos)]
    sizes = {
        f"{(frame := next(read_video(s, fps=1, short_side=native(s)[1]))).shape[1]}x{frame.shape[0]}" for s in sources
    }
    rounds, frames, summary = [], 0, Summary(0, 0, 0, ())
    for _ in range(ROUNDS):
        out = work / "out"
        start = time.perf_counter()
        summary = remove_from_all(sources, ("x",), out, removal, b"a secret of a benchmark", workers=workers)
        wall = time.perf_counter() - start
        frames = sum(json.loads(line)["frames"] for line in (out / "removal.jsonl").read_text().splitlines())
        rounds.append(frames / wall)
        shutil.rmtree(out)
    return {
        "frames_per_second": statistics.median(rounds),
        "rounds": rounds,
        "frames": frames,
        "workers": workers,
        "size": ", ".join(sorted(sizes)),
        "kept": summary.kept,
        "dropped": summary.dropped,
    }


def _with_true_masks(corpus: str, number: int) -> dict[str, Any]:
    """One clip, filled in exactly where its person is: mean absolute errors in grey levels, and pixels left."""
    cv2.setNumThreads(1)
    clip = render(demo_sources(corpus, number + 1)[number], seed=0)
    exact, sure = Settings(margin=0, belongings=False, exact=True), np.zeros(len(clip.frames), np.bool_)
    filled = remove_from_shot(clip.frames, clip.person, sure, FPS, background, exact)
    paint = next(paint for paint in PAINTS if not _like(clip.empty, paint).any())
    painted = clip.frames.copy()
    painted[clip.person & (np.abs(clip.frames.astype(int) - clip.empty).max(-1) > DIFFERS)] = paint
    left = remove_from_shot(painted, clip.person, sure, FPS, background, exact).frames
    error = np.abs(filled.frames.astype(int) - clip.empty).mean(-1)
    visible = clip.person & ~clip.person.all(0)
    seen = visible & filled.seen
    return {
        "person_pixels_left": int(_like(left, paint).sum()),
        "error": float(error[visible].mean()),
        "error_where_seen": float(error[seen].mean()) if seen.any() else None,
        "seen": float(seen.sum() / visible.sum()),
    }


def _like(frames: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.abs(frames.astype(int) - colour).max(-1) < 85


def _filling(clips: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [clip["error"] for clip in clips]
    return {
        "clips": len(clips),
        "person_pixels_left": sum(clip["person_pixels_left"] for clip in clips),
        "error_mean": statistics.mean(errors),
        "error_median": statistics.median(errors),
        "error_worst": max(errors),
        "error_where_seen": statistics.mean(c["error_where_seen"] for c in clips if c["error_where_seen"] is not None),
        "each": clips,
    }


def _with_segmenter(removal: Removal, corpus: str, number: int) -> dict[str, Any]:
    """One clip as the program treats it; `left` is what of the person, as a share of the picture, no hole covers."""
    segment, fill, gate = tools(removal)
    assert segment is not None
    clip = render(demo_sources(corpus, number + 1)[number], seed=0)
    frames, empty = (
        np.stack([cv2.resize(frame, (384, 288), interpolation=cv2.INTER_CUBIC) for frame in part]).astype(np.uint8)
        for part in (clip.frames, clip.empty)
    )
    person = np.abs(frames.astype(int) - empty).max(-1) > DIFFERS
    tally = Tally()
    shots = list(remove_people(iter(frames), FPS, segment, fill, removal.settings, gate, tally))
    holes = np.concatenate([shot.holes for shot in shots])
    return {
        "dropped": tally.why_dropped(Limits()),
        "recall": float((holes & person).sum() / person.sum()),
        "left_in_worst_frame": float((person & ~holes).mean((1, 2)).max()),
        "masked": float(holes.mean()),
        "person": float(person.mean()),
    }


def _finding(clips: list[dict[str, Any]]) -> dict[str, Any]:
    kept = [clip for clip in clips if clip["dropped"] is None]
    reasons = Counter(re.sub(r"[\d%]+", "#", clip["dropped"]) for clip in clips if clip["dropped"])
    return {
        "clips": len(clips),
        "kept": len(kept),
        "dropped": dict(reasons.most_common()),
        "recall": statistics.mean(clip["recall"] for clip in clips),
        "recall_of_kept": statistics.mean(clip["recall"] for clip in kept) if kept else None,
        "left_in_worst_frame_of_kept": max((clip["left_in_worst_frame"] for clip in kept), default=None),
        "masked": statistics.mean(clip["masked"] for clip in clips),
        "person": statistics.mean(clip["person"] for clip in clips),
        "each": clips,
    }


if __name__ == "__main__":
    sys.exit(main())

"""How much of the action the traces of a removal tell, on the demo's clips, whose people are known to the pixel.

    python benchmarks/leak.py --out leak.json [--clips 240]

The probe of `understudy audit` on the true empty scenes, on the same clips filled with grey and by inpainting, and on
the outlines of the masks alone. Only what is above the empty scenes is the removal's doing.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from understudy.privacy.fill import Shot, flat, inpaint
from understudy.privacy.leak import artefact_features, outline_features, probe
from understudy.privacy.stabilise import Motion
from understudy.shards.demo import demo_sources, render
from understudy.shards.machine import usable_cores

CORPUS = "demo-actions-train"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results")
    parser.add_argument("--clips", type=int, default=240)
    options = parser.parse_args()
    labels = [source.label for source in demo_sources(CORPUS, options.clips)]
    with ProcessPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(_features, [options.clips] * options.clips, range(options.clips), chunksize=8))
    result = {}
    for name in found[0]:
        leak = probe(np.stack([each[name] for each in found]), labels, range(options.clips))
        result[name] = None if leak is None else asdict(leak)
        print(f"{name:10}", "too few clips" if leak is None else f"{leak.accuracy:.1%}, guessing {leak.chance:.1%}")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def _features(clips: int, number: int) -> dict[str, np.ndarray]:
    """Runs in a worker process."""
    cv2.setNumThreads(1)
    clip = render(demo_sources(CORPUS, clips)[number], seed=0)
    count = len(clip.frames)
    motion = Motion(np.tile(np.eye(3), (count, 1, 1)), np.arange(count))
    nothing = np.zeros_like(clip.person)
    shot = Shot(clip.frames, clip.person, np.zeros_like(clip.frames), nothing, motion)
    videos = {"empty": clip.empty, "grey": flat(shot), "inpainted": inpaint(shot)}
    features = {name: artefact_features(frames) for name, frames in videos.items()}
    return {**features, "outlines": outline_features(clip.person)}


if __name__ == "__main__":
    main()

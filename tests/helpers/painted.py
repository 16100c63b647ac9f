"""Demo clips whose people are painted in a colour that nothing else has, so that any pixel of them can be told."""

from __future__ import annotations

import numpy as np

from understudy.shards.demo import Clip, demo_sources, render

COLOUR = (255, 0, 255)


def painted(corpus: str, number: int) -> tuple[Clip, np.ndarray]:
    """A clip, and its frames with the person (what clearly differs from the empty scene, shadows too) in COLOUR."""
    clip = render(demo_sources(corpus, number + 1)[number], seed=0)
    frames = clip.frames.copy()
    frames[clip.person & (np.abs(clip.frames.astype(int) - clip.empty).max(-1) > 24)] = COLOUR
    return clip, frames


def of_person(frames: np.ndarray) -> np.ndarray:
    """(T, H, W): pixels that have COLOUR, or mostly."""
    return (frames[..., 0] > 170) & (frames[..., 1] < 80) & (frames[..., 2] > 170)

"""When each frame is on display, and which frame each tick of the packing rate shows. Numbers only, no decoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

T = TypeVar("T")

GLITCH = Fraction(1)  # seconds: a stamp further back than this begins a new timeline, a nearer one is a slip
LEAP = Fraction(10)  # seconds: a step forward past this is a break, in containers whose clock may break
ROUNDING = Fraction(1, 2000)  # seconds: the most that a stamp is taken to be off for having been rounded
FALLBACK = Fraction(1, 25)  # seconds a frame lasts where nothing says


def first_output(time: Fraction, fps: Fraction, slack: Fraction = Fraction(0)) -> int:
    """Number of the first output frame (they are at 0, 1/fps, 2/fps ...) at or after `time` seconds.

    A frame that begins at t and ends at u is therefore shown by the outputs first_output(t) to first_output(u) - 1,
    and a video of d seconds has first_output(d) of them. An output up to `slack` seconds before `time` counts as at
    `time`: half a tick of the container's clock, to which stamps are rounded.
    """
    return max(0, math.ceil((time - slack) * fps))


class Timeline:
    """Turns the stamps of frames, given in display order, into seconds since the first one that never go back.

    `time_base` is seconds per unit of the stamps, `frame_time` the seconds per frame that the container promises
    (None where it doesn't), `may_break` says that the container's clock may start anew in mid-stream.
    """

    def __init__(self, time_base: Fraction, frame_time: Fraction | None, may_break: bool) -> None:
        self._time_base = time_base
        self._frame_time: Fraction = frame_time or FALLBACK
        self._may_break = may_break
        self._slack = min(time_base / 2, ROUNDING)
        self._offset: Fraction | None = None  # add to a stamp in seconds to get time; None before the first stamp
        self._begun = False
        self._time: Fraction = Fraction(0)
        self._step: Fraction | None = None  # the last step that the stamps themselves made
        self._lasts: Fraction = Fraction(0)  # what the container says of the latest frame, 0 for unknown
        self._agreed = 0  # how often, less how often not, a frame lasted as long as the container said

    @property
    def slack(self) -> Fraction:
        """Seconds by which a stamp may be off for rounding."""
        return self._slack

    def place(self, stamp: int | None, duration: int) -> Fraction:
        """Seconds from the first frame to this one. `stamp` and `duration` in units; None and 0 for unknown."""
        if self._begun:
            self._advance(stamp)
        elif stamp is not None:
            self._offset = -stamp * self._time_base
        self._begun = True
        self._lasts = max(duration, 0) * self._time_base
        return self._time

    def _advance(self, stamp: int | None) -> None:
        usual = self._time + (self._step or self._lasts or self._frame_time)
        if stamp is None:
            self._time = usual
            return
        if self._offset is None:
            self._offset = usual - stamp * self._time_base
        time = stamp * self._time_base + self._offset
        step = time - self._time
        if (step > LEAP and self._may_break) or step < -GLITCH:
            self._offset += usual - time
            self._time = usual
        elif step <= 0:
            self._time = usual
        else:
            if self._lasts:
                self._agreed += 1 if abs(step - self._lasts) <= max(step / 10, 2 * self._slack) else -1
            self._time, self._step = time, step

    def end(self, declared: int | None = None) -> Fraction:
        """Seconds from the first frame until the latest one, the last, ends.

        `declared` is the stamp at which the container says that the stream ends; where it fits, it counts (an edit
        list may end in mid-frame). Else the frame lasts as long as the container says, if that was right of at
        least half of the others, else as long as the one before.
        """
        usual = self._lasts if self._lasts and self._agreed >= 0 else self._step or self._lasts or self._frame_time
        if declared is not None and self._offset is not None:
            lasts = declared * self._time_base + self._offset - self._time
            if 0 <= lasts <= 2 * usual:
                return self._time + lasts
        return self._time + usual


def resample(
    frames: Iterable[tuple[T, int | None, int]], timeline: Timeline, fps: Fraction, declared_end: int | None = None
) -> Iterator[tuple[T, int]]:
    """Yield (frame, how many outputs in a row show it), for the frames that any output shows.

    `frames` are (frame, stamp, duration) in display order; stamps, durations and the declared end are in the
    timeline's units. A video with any frame has at least one output. Looks one frame ahead and keeps no other.
    """
    held: list[T] = []
    output = 0
    for frame, stamp, duration in frames:
        begin = timeline.place(stamp, duration)
        until = first_output(begin, fps, timeline.slack)
        if held and until > output:
            yield held[0], until - output
            output = until
        held = [frame]
    if held:
        until = max(first_output(timeline.end(declared_end), fps, timeline.slack), 1)
        if until > output:
            yield held[0], until - output

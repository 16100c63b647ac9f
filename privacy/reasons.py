"""Why sources were refused, in words that may be published: this project's own, never those of a decoder or a file."""

from __future__ import annotations

import re

OTHER = "another reason"
# Up to the first colon, after which others have their say, with # for numbers.
KNOWN = frozenset(
    (
        # reading videos and frame folders
        "cannot be decoded", "cannot be timed", "damaged after # frames", "its picture changes shape midway",
        "its picture is a strip, # times longer than wide", "its picture is too large, # x #", "no frames",
        "no video stream", "not a file", "it can't be read", "frame # can't be read", "a folder without frames",
        "a frame folder with other files in it", "a frame without a number", "two frames with the number #",
        "frame # is missing between # and #", "frame # is cut off", "frame # is not a single picture",
        "the decoder crashed", "the decoder hung", "the decoder ran out of memory", "not tried",
        # removing people
        "a person is still seen in # of # frames", "a person vanished in mid-picture and was not found again",
        "it has no folder of masks", "its masks are in colours", "its masks are more grey than white",
        "its masks are of another shape", "its masks go up to number #, it has # frames",
        "its video in .holes is not its own", "only #% of what is behind people was ever seen",
        "people cover #% of the picture", "removing its people failed", "the segmenter was unsure on # of # frames",
        "where it was filled in is not in .holes",
    )
)  # fmt: skip


def nameless(reason: str) -> str:
    """A reason for refusing a source as it may be published: one of KNOWN, or OTHER."""
    own = re.sub(r"\d+", "#", reason.partition(":")[0])
    return own if own in KNOWN else OTHER

"""The words that a corpus is described with. Imports nothing, so that the command line answers at once."""

from __future__ import annotations

from typing import Literal

Kind = Literal["no-human", "synthetic", "real"]
Codec = Literal["mjpeg", "h264"]
KINDS: tuple[Kind, ...] = ("no-human", "synthetic", "real")

"""The words that a corpus and its packing are described with.

Imports nothing, so that the command line answers at once.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["no-human", "synthetic", "real"]
Codec = Literal["mjpeg", "h264"]
Engine = Literal["local", "ray"]  # where packing computes: processes here (workers.py), or a cluster (cluster.py)
KINDS: tuple[Kind, ...] = ("no-human", "synthetic", "real")

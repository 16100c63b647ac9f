"""Opening a media file with PyAV so that its tags can't stop it. What is in it is for the caller to see."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from av.container import InputContainer

# Before version 19, PyAV raised on tags that are not UTF-8 unless told otherwise; since then it has no such setting.
_LENIENT: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}


def open_container(file: str | IO[bytes], options: dict[str, str] | None = None) -> InputContainer:
    """Open `file` for reading, with libavformat's `options`. Raises av.FFmpegError or ValueError where it can't be."""
    return av.open(file, "r", options=options, **_LENIENT)

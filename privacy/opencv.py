"""OpenCV, which only those install who remove people or audit. Untyped: its stubs know no element types of arrays."""

from __future__ import annotations

from functools import cache
from typing import Any

from understudy.shards.errors import UserError


@cache
def opencv() -> Any:
    """The module cv2, on one thread (work is spread over processes). Raises UserError where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise UserError("this needs OpenCV: pip install understudy[people]") from None
    cv2.setNumThreads(1)
    return cv2

"""OpenCV, which only those install who remove people or audit. Untyped: its stubs know no element types of arrays."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.shards.errors import UserError


@cache
def opencv() -> Any:
    """The module cv2, on one thread (work is spread over processes). Raises UserError where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise UserError('this needs OpenCV; run in the checkout: pip install -e ".[people]"') from None
    cv2.setNumThreads(1)
    return cv2


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W): by how many grey levels two pictures (H, W, 3) differ in the colour that differs most."""
    cv2 = opencv()

    red, green, blue = cv2.split(cv2.absdiff(one, other))
    return cv2.max(cv2.max(red, green), blue)

"""From a decoded frame's pixels to upright 8-bit sRGB ones of a given size: matrix, range, HDR, alpha, rotation.

Knows nothing of files or time. libswscale scales and converts; what it can't do is plain numpy here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame

# Numbers of ISO/IEC 23091-2, as in the streams and in FFmpeg.
UNSPECIFIED = 2
BT709, BT601, BT2020 = 1, 6, 9
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2

SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
SDR_WHITE = 203.0  # cd/m2 of diffuse white in HDR video, ITU-R BT.2408
PEAK = 1000.0 / SDR_WHITE  # brightest light that is kept apart, in units of diffuse white
KNEE = 0.5  # light up to here is left as it is, brighter light is bent to fit between here and 1

BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)

Curve = Literal["pq", "hlg", "sdr"]


class Converter:
    """Converts the frames of one video; holds libswscale's tables between them."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def to_rgb(self, frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels of `frame` at width x height (before turning), RGB as on a screen, (height, width, 3).

        Colours that the frame does not name are taken as players do: limited range, BT.709 for high definition and
        BT.601 below. Transparent parts are seen on black.
        """
        curve = _curve(frame)
        has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
        target = "rgb48le" if curve else "rgba" if has_alpha else "rgb24"
        if not frame.format.is_rgb and frame.colorspace in (0, UNSPECIFIED):
            high_definition = frame.width >= 1280 or frame.height > 576
            frame.colorspace = BT709 if high_definition else BT601
        converted = self._reformatter.reformat(
            frame, width, height, target, interpolation=SCALING, dst_color_range=FULL, threads=1
        )
        pixels = converted.to_ndarray()
        if curve:
            return to_sdr(cast("NDArray[np.uint16]", pixels), curve)
        rgb = cast("NDArray[np.uint8]", pixels)
        return over_black(rgb) if has_alpha else rgb


def _curve(frame: VideoFrame) -> Curve | None:
    """How the frame's values stand for BT.2020 light, or None where they are good for a screen as they are."""
    if frame.color_trc == PQ:
        return "pq"
    if frame.color_trc == HLG:
        return "hlg"
    return "sdr" if frame.color_primaries == BT2020 else None


def over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 4) with straight alpha to (H, W, 3) on a black ground."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + 127) // 255).astype(np.uint8)


def to_sdr(rgb: NDArray[np.uint16], curve: Curve) -> NDArray[np.uint8]:
    """(H, W, 3) of 16 bits in BT.2020 primaries to 8-bit BT.709 ones: "pq" and "hlg" tone-mapped, "sdr" as bright.

    Diffuse white stays near white and everything up to half of it as it is; highlights are bent below 1 by their
    largest channel, which keeps their hue.
    """
    light = _linear(curve)[rgb]
    if curve == "hlg":
        light *= np.maximum(light @ BT2020_LUMA, 1e-6)[..., None] ** np.float32(0.2) * np.float32(PEAK)
    if curve != "sdr":
        largest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
        light *= bend(largest) / largest
    light = np.clip(light @ BT2020_TO_BT709.T, 0.0, 1.0)
    if curve == "sdr":
        shown = light ** np.float32(1 / 2.4)
    else:
        shown = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
    return np.rint(shown * 255).astype(np.uint8)


def bend(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tone curve: identity to KNEE, then a hyperbola that leaves it smoothly and meets 1 at PEAK; 1 beyond."""
    # y = KNEE + (1-KNEE) * s*(1+c)/(s+c) on s = (x-KNEE)/(PEAK-KNEE), where c makes the slope at the knee 1.
    room, span = 1.0 - KNEE, PEAK - KNEE
    c = room / (span - room)
    s = np.clip((light - KNEE) / span, 0.0, 1.0)
    return np.where(light <= KNEE, light, KNEE + room * s * (1 + c) / (s + c)).astype(np.float32)


@cache
def _linear(curve: Curve) -> NDArray[np.float32]:
    """Light for each of the 65536 values; in units of diffuse white for PQ, of the brightest scene for the others."""
    value = np.arange(65536, dtype=np.float64) / 65535
    if curve == "pq":  # SMPTE ST 2084
        m1, m2 = 2610 / 16384, 2523 / 32
        c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
        root = value ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10000 / SDR_WHITE
    elif curve == "hlg":  # ARIB STD-B67
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    else:
        light = value**2.4
    return light.astype(np.float32)


def upright(pixels: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) by a display matrix (9 numbers, row by row), to the nearest quarter turn."""
    if matrix is None:
        return pixels
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if turns_sideways(matrix):
        pixels, flip_x, flip_y = pixels.transpose(1, 0, 2), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def turns_sideways(matrix: NDArray[np.int32] | None) -> bool:
    """Whether the matrix lays width along height."""
    return matrix is not None and abs(int(matrix[1])) > abs(int(matrix[0]))

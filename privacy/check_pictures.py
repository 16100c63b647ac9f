"""What a still picture holds besides pixels: segments of a JPEG, chunks of a PNG or a WebP, bytes after the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is not pixels: `what` in a word (location, date, sound ...), `detail` says where and which."""

    what: str
    detail: str


# Chunks that say how pixels are to be shown; all others are somebody's words, or nobody knows what.
_PNG = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs"}
_PNG_KINDS = {b"eXIf": "EXIF", b"tIME": "date", b"tEXt": "comment", b"zTXt": "comment", b"iTXt": "comment"}
_WEBP = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_WEBP_KINDS = {b"EXIF": "EXIF", b"XMP ": "XMP"}


def check_picture(data: bytes) -> Iterator[Finding] | None:
    """All but pixels in a JPEG, PNG or WebP; None for anything else."""
    if data[:2] == b"\xff\xd8":
        return check_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _check_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _check_webp(data)
    return None


def _check_png(data: bytes) -> Iterator[Finding]:
    position, kind = 8, b""
    while position + 12 <= len(data) and kind != b"IEND":
        kind = data[position + 4 : position + 8]
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        if kind not in _PNG:
            yield Finding(_PNG_KINDS.get(kind, "PNG chunk"), f"PNG chunk {kind.decode('latin-1')}")
    if position != len(data):
        yield Finding("trailing bytes", "the picture and the file don't end together")


def _check_webp(data: bytes) -> Iterator[Finding]:
    position, end = 12, 8 + int.from_bytes(data[4:8], "little")
    while position + 8 <= min(end, len(data)):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind not in _WEBP:
            yield Finding(_WEBP_KINDS.get(kind, "WebP chunk"), f"WebP chunk {kind.decode('latin-1')}")
        position += 8 + size + size % 2
    if position != len(data):
        yield Finding("trailing bytes", "the picture and the file don't end together")


_PICTURE = {0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD}


def check_jpeg(data: bytes) -> Iterator[Finding]:
    """Segments of a JPEG that hold no picture data, anywhere up to its end, and bytes after that."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            yield Finding("unreadable", f"no JPEG segment at byte {position}")
            return
        kind = data[position + 1]
        if kind == 0xD9:
            break
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + size]
        if kind == 0xE0 and content[:5] == b"JFIF\0" and len(content) == 14:
            pass  # the plain mark, without a thumbnail
        elif kind == 0xFE:
            yield Finding("comment", "a JPEG comment")
        elif kind not in _PICTURE:
            what = "EXIF" if content[:4] == b"Exif" else "XMP" if b"adobe.com/xap" in content[:32] else "JPEG segment"
            yield Finding(what, f"JPEG segment FF{kind:02X}")
        position += 2 + size
        if kind == 0xDA:
            position = _scan_end(data, position)
    if position + 2 < len(data):
        yield Finding("trailing bytes", f"{len(data) - position - 2} bytes after the picture")


def _scan_end(data: bytes, position: int) -> int:
    """Where the next marker stands that is neither a stuffed byte nor a restart."""
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        if data[position + 1] != 0 and not 0xD0 <= data[position + 1] <= 0xD7:
            return position
        position += 2
    return len(data)

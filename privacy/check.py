"""What a media file holds besides pixels: tags, places, dates, sound, captions, user data. Never what the pixels show.

The same function looks at our packed samples and at anyone's originals, so that finding nothing in the former means
something. Pictures are in `check_pictures.py`; tars, keys and sidecars in `check_shards.py`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.privacy.check_pictures import Finding, check_jpeg, check_picture
from understudy.shards.container import open_container

if TYPE_CHECKING:
    from av.container import InputContainer


# Tags without which no file is written, with the values that say nothing.
_HARMLESS_TAGS = {"major_brand", "minor_version", "compatible_brands", "vendor_id"}
_HARMLESS_VALUES = {"language": {"und"}, "handler_name": {"", "VideoHandler"}}
_BOXES = {b"ftyp", b"free", b"moov", b"mdat"}
# By box, the boxes in it without which no video is shown. udta and meta are empty lists then.
_CHILDREN = {
    b"moov": {b"mvhd", b"trak", b"udta", b"meta"},
    b"trak": {b"tkhd", b"edts", b"mdia", b"udta", b"meta"},
    b"edts": {b"elst"},
    b"mdia": {b"mdhd", b"hdlr", b"minf"},
    b"minf": {b"vmhd", b"dinf", b"stbl"},
    b"dinf": {b"dref"},
    b"stbl": {b"stsd", b"stts", b"stss", b"ctts", b"cslg", b"stsc", b"stsz", b"stco", b"co64", b"sdtp"},
}
_ITSELF = b"\0\0\0\0\0\0\0\1\0\0\0\x0curl \0\0\0\1"  # what dref says of frames that are in the same file
_CODED = {b"avc1", b"avc3", b"hvc1", b"hev1", b"mp4v", b"av01", b"vp08", b"vp09"}  # entries of stsd
_OF_CODED = {b"avcC", b"hvcC", b"esds", b"av1C", b"vpcC", b"colr", b"pasp", b"btrt", b"fiel", b"clap"}
_NAMED_BOXES = {
    b"\xa9xyz": "location", b"loci": "location", b"gpmd": "location", b"mebx": "sensor data", b"mett": "sensor data",
    b"tmcd": "timecode", b"SEFT": "maker's trailer", b"sefd": "maker's trailer",
}  # fmt: skip
# Long enough not to come up by chance in compressed data, so they are looked for everywhere.
_MARKS = {
    b"ISO6709": "location",
    b"http://ns.adobe.com/xap": "XMP",
    b"<x:xmpmeta": "XMP",
    b"Exif\0\0": "EXIF",
}
_TAG_KINDS = (
    ("location", "location"), ("gps", "location"), ("xyz", "location"), ("date", "date"), ("time", "date"),
    ("make", "device"), ("model", "device"), ("software", "device"), ("firmware", "device"),
)  # fmt: skip


def check_media(source: Path | bytes) -> list[Finding]:
    """Everything but pixels in a video or picture. A file that no one can open gives one finding, `unreadable`."""
    data = source.read_bytes() if isinstance(source, Path) else source
    in_picture = check_picture(data)
    if in_picture is not None:
        return list(in_picture)
    findings = [*_marks(data), *_tracks(data)]
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        findings += _boxes(data)
    return list(dict.fromkeys(findings))


def _marks(data: bytes) -> Iterator[Finding]:
    for mark, what in _MARKS.items():
        if mark in data:
            yield Finding(what, f"the bytes {mark.decode('latin-1')!r}")


# --- ISO media: boxes ---


def _boxes(data: bytes) -> Iterator[Finding]:
    position = 0
    while position < len(data):
        box = _box(data, position, len(data))
        if box is None:
            yield Finding("trailing bytes", f"{len(data) - position} bytes after the last box")
            return
        kind, start, end = box
        if kind not in _BOXES:
            yield Finding(_NAMED_BOXES.get(kind, "box"), f"box {_text(kind)} at the top level")
        elif kind == b"free" and any(data[start:end]):
            yield Finding("hidden bytes", "a box `free` that is not empty")
        elif kind == b"moov":
            yield from _inside(data, start, end)
        position = end


def _inside(data: bytes, position: int, end: int, parent: bytes = b"moov") -> Iterator[Finding]:
    while box := _box(data, position, end):
        kind, start, position = box
        content = data[start:position]
        if kind in (b"free", b"skip"):
            if any(content):
                yield Finding("hidden bytes", f"a box {_text(kind)} in {_text(parent)} that is not empty")
        elif kind not in _CHILDREN[parent]:
            yield Finding(_NAMED_BOXES.get(kind, "box"), f"box {_text(kind)} in {_text(parent)}")
        elif kind in _CHILDREN:
            yield from _inside(data, start, position, kind)
        elif kind in (b"mvhd", b"tkhd", b"mdhd"):
            wide = 8 if content[:1] == b"\1" else 4
            if any(content[4 : 4 + 2 * wide]):
                yield Finding("date", f"creation or modification time in {_text(kind)}")
        elif kind == b"dref" and content != _ITSELF:
            yield Finding("box", "box dref that names another file")
        elif kind == b"stsd":
            yield from _entries(content)
        elif kind in (b"udta", b"meta") and not _is_empty_meta(content, kind):
            names = [what for name, what in _NAMED_BOXES.items() if name in content]
            yield Finding(names[0] if names else "tags", f"box {_text(kind)} with content")
    if any(data[position:end]):
        yield Finding("hidden bytes", f"{end - position} bytes in {_text(parent)} that are no box")


def _entries(content: bytes) -> Iterator[Finding]:
    """What stsd says of the track's coding."""
    yield from (Finding(what, f"track of {_text(name)}") for name, what in _NAMED_BOXES.items() if name in content)
    position = 8
    while box := _box(content, position, len(content)):
        kind, start, position = box
        inner = start + 78  # after the fields that all pictures have: ISO/IEC 14496-12, 12.1.3
        while kind in _CODED and (child := _box(content, inner, position)):
            name, _, inner = child
            if name not in _OF_CODED:
                yield Finding("box", f"box {_text(name)} in {_text(kind)}")


def _is_empty_meta(content: bytes, kind: bytes) -> bool:
    """Whether a udta or meta box holds nothing but an empty list, as muxers write it."""
    if kind == b"udta":
        inner = _box(content, 0, len(content)) if content else None
        if not content or not any(content):
            return True
        return (
            inner is not None
            and inner[0] == b"meta"
            and inner[2] == len(content)
            and _is_empty_meta(content[inner[1] :], b"meta")
        )
    position = 4  # version and flags
    while position < len(content):
        box = _box(content, position, len(content))
        if box is None:
            return False
        inner, start, position = box
        # A list is empty, padding of zeros, and what handles them has no name.
        said = content[start + (24 if inner == b"hdlr" else 0) : position]
        if inner not in (b"hdlr", b"ilst", b"free") or any(said):
            return False
    return True


def _box(data: bytes, position: int, end: int) -> tuple[bytes, int, int] | None:
    """Kind, start of content and end of the box at `position`; None where there is none."""
    if position + 8 > end:
        return None
    size, start = int.from_bytes(data[position : position + 4], "big"), position + 8
    kind = data[position + 4 : position + 8]
    if size == 1 and position + 16 <= end:
        size, start = int.from_bytes(data[position + 8 : position + 16], "big"), position + 16
    elif size == 0:
        size = end - position
    return (kind, start, position + size) if start - position <= size <= end - position else None


def _text(kind: bytes) -> str:
    return kind.decode("latin-1")


# --- Any container: streams, tags, units of the coded video ---


def _tracks(data: bytes) -> Iterator[Finding]:
    from av.error import FFmpegError
    from av.stream import Disposition

    try:
        with open_container(io.BytesIO(data)) as container:
            if container.format.name.startswith("mov,mp4"):
                yield from _boxes(data)
            yield from _tags(container.metadata, "the file")
            if container.chapters():
                yield Finding("chapters", f"{len(container.chapters())} chapters")
            seen_video = False
            for stream in container.streams:
                if stream.type != "video":
                    yield Finding(_STREAMS.get(stream.type, "data track"), f"stream {stream.index} of {stream.type}")
                elif stream.disposition & Disposition.attached_pic:
                    yield Finding("picture", f"stream {stream.index} is an attached picture")
                elif seen_video:
                    yield Finding("second video", f"stream {stream.index}")
                else:
                    seen_video = True
                yield from _tags(stream.metadata, f"stream {stream.index}")
            yield from _units(container)
    except (FFmpegError, ValueError) as error:
        yield Finding("unreadable", getattr(error, "strerror", None) or str(error))


_STREAMS = {"audio": "sound", "subtitle": "subtitles", "attachment": "attachment"}


def _tags(tags: dict[str, str], where: str) -> Iterator[Finding]:
    for name, value in tags.items():
        if name in _HARMLESS_TAGS or value in _HARMLESS_VALUES.get(name, ()):
            continue
        lower = name.lower().replace("quicktime", "")  # in which there is a time
        what = next((kind for part, kind in _TAG_KINDS if part in lower), "timecode" if lower == "timecode" else "tags")
        yield Finding("timecode" if "timecode" in lower else what, f"tag {name} of {where}")


_SHORTEST = {"h264": 7, "hevc": 23}  # decoder configurations, bytes


def _units(container: InputContainer) -> Iterator[Finding]:
    """Messages inside the coded video: SEI of H.264 and HEVC, user data and timecodes of MPEG-2 and MPEG-4, segments of
    the pictures of MJPEG.
    """
    from av.error import FFmpegError

    # Streams of a codec unknown to FFmpeg have no context, whatever the annotation says.
    streams = [stream for stream in container.streams.video if getattr(stream, "codec_context", None) is not None]
    if not streams:
        return
    stream = streams[0]
    codec = stream.codec_context.name
    extra = bytes(stream.codec_context.extradata or b"")
    prefix = 0
    if codec in ("h264", "hevc") and extra[:1] == b"\x01" and len(extra) >= _SHORTEST[codec]:
        prefix = (extra[4 if codec == "h264" else 21] & 3) + 1
        kinds = dict.fromkeys(_messages(_parameter_sets(extra, codec), codec, 2))
    else:
        kinds = dict.fromkeys(_messages(extra, codec, 0))
    try:
        for packet in container.demux(stream):
            kinds |= dict.fromkeys(_messages(bytes(packet), codec, prefix))
    except FFmpegError:
        pass  # damage is the packer's business; what came before it counts
    for kind in sorted(kinds):
        yield Finding(kind, f"inside the {codec} stream")


def _parameter_sets(extra: bytes, codec: str) -> bytes:
    """The units in a decoder's configuration (ISO/IEC 14496-15, 5.3.3 and 8.3.3), each after its size in two bytes."""
    file, units = io.BytesIO(extra), bytearray()

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "big")

    file.seek(5 if codec == "h264" else 22)
    for array in range(2 if codec == "h264" else number(1)):
        # Of HEVC's, the array's kind comes first.
        count = number(1) & (255 if array else 31) if codec == "h264" else number(3) & 0xFFFF
        for _ in range(count):
            size = number(2)
            if not size:
                break
            units += size.to_bytes(2, "big") + file.read(size)
    return bytes(units)


def _messages(data: bytes, codec: str, prefix: int) -> Iterator[str]:
    if codec in ("h264", "hevc"):
        for unit in _length_prefixed(data, prefix) if prefix else _started(data):
            kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
            if kind in ((6,) if codec == "h264" else (39, 40)):
                yield "captions" if b"GA94" in unit else "user data (SEI)"
    elif codec in ("mpeg2video", "mpeg1video", "mpeg4"):
        for unit in _started(data):
            if unit[0] == 0xB2:
                yield "captions" if b"GA94" in unit[:8] else "user data"
            elif unit[0] == 0xB8 and codec != "mpeg4":
                yield "timecode"
    elif codec == "mjpeg" and data:
        yield from (finding.what for finding in check_jpeg(data))


def _length_prefixed(data: bytes, prefix: int) -> Iterator[bytes]:
    position = 0
    while position + prefix < len(data):
        size = int.from_bytes(data[position : position + prefix], "big")
        unit = data[position + prefix : position + prefix + size]
        if not unit:
            return
        yield unit
        position += prefix + size


def _started(data: bytes) -> Iterator[bytes]:
    yield from (unit for unit in data.split(b"\0\0\1")[1:] if unit)

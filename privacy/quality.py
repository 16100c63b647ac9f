"""How strongly a corpus is compressed, read from its first clip, as its manifest does not say."""

from __future__ import annotations

import io
import os
from functools import cache

import numpy as np

from understudy.shards.corpus import Corpus
from understudy.shards.encode import RATE_FACTORS, encode
from understudy.shards.errors import UserError
from understudy.shards.frames import split_jpegs
from understudy.shards.kinds import Codec
from understudy.shards.manifest import MEMBERS
from understudy.shards.tarshard import read_spans


def packed_quality(corpus: Corpus) -> int:
    """The `quality` of `encode`, 1 to 100, that compresses as the clips of `corpus` are compressed.

    JPEGs have the tables of their quality. H.264 has the whole part of its rate factor, which a few qualities share:
    the lowest of them is taken. Where none is the same, as in a corpus that others made, it is the next lower one.
    Raises UserError where the first clip is not as it is packed.
    """
    codec = corpus.manifest.codec
    payload = [name for name in MEMBERS[codec] if name != "json"]
    try:
        with os.fdopen(corpus.open_shard(int(corpus.shard[0])), "rb") as file:
            members = dict(zip(payload, read_spans(file, corpus.spans[0].tolist())))
        if codec == "mjpeg":
            coarseness = _table_mean(next(split_jpegs(members, int(corpus.frames[0]))))
        else:
            coarseness = _initial_qp(members["mp4"])
    except (ValueError, IndexError, OSError) as error:
        place = corpus.root / corpus.manifest.shards[int(corpus.shard[0])].url
        raise UserError(f"{place}: its first clip is damaged ({error}); run: understudy lint {corpus.root}") from None
    known = _coarseness(codec)
    return known.index(min((value for value in known if value >= coarseness), default=known[0])) + 1


@cache
def _coarseness(codec: Codec) -> list[float]:
    """By quality from 1 on, falling: the mean of a JPEG's tables, or x264's first quantiser."""
    if codec == "h264":
        factors = np.interp(range(1, 101), list(RATE_FACTORS), list(RATE_FACTORS.values()))
        return [int(round(factor, 2)) for factor in factors.tolist()]
    grey = np.full((16, 16, 3), 128, np.uint8)
    return [_table_mean(encode(iter([grey]), "mjpeg", fps=1, quality=q).members["mjpg"]) for q in range(1, 101)]


def _table_mean(jpeg: bytes) -> float:
    """The mean over all quantisation tables of a JPEG."""
    values, position = list[int](), 2
    while jpeg[position + 1] != 0xDA:
        size = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        tables = jpeg[position + 4 : position + 2 + size] if jpeg[position + 1] == 0xDB else b""
        while tables:
            if tables[0] > 15 or len(tables) < 65:
                raise ValueError("its tables are not those of a baseline JPEG")
            values += tables[1:65]
            tables = tables[65:]
        position += 2 + size
    if not values:
        raise ValueError("a JPEG without tables")
    return float(np.mean(values))


def _initial_qp(mp4: bytes) -> int:
    """The quantiser that the picture parameter set of an MP4's H.264 begins with: x264 puts its rate factor there."""
    import av

    with av.open(io.BytesIO(mp4)) as container:
        extra = bytes(container.streams.video[0].codec_context.extradata or b"")
    # ISO/IEC 14496-15, 5.3.3.1: after six bytes the sequence parameter set with its size, a count, and the picture's.
    start = 8 + int.from_bytes(extra[6:8], "big") + 1
    unit = extra[start + 2 : start + 2 + int.from_bytes(extra[start : start + 2], "big")]
    # ITU-T H.264, 7.3.2.2; the first byte is the unit's kind.
    bits = "".join(f"{byte:08b}" for byte in unit[1:].replace(b"\0\0\3", b"\0\0"))
    position = 0

    def number() -> int:
        nonlocal position
        zeros = bits.index("1", position) - position
        position += 2 * zeros + 1
        return int(bits[position - zeros - 1 : position], 2) - 1

    for _ in range(2):  # the sets' numbers
        number()
    position += 2
    if number():
        raise ValueError("pictures in several groups of slices, as no packer of ours makes them")
    for _ in range(2):  # of reference pictures
        number()
    position += 3
    code = number()
    return 26 + (-(code // 2) if code % 2 == 0 else (code + 1) // 2)

"""Names of sources, in bytes and in keys: hundreds of thousands are sought at once."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

SHORTEST = 8  # characters of a name that does not come up by chance
_BLOCK = 1 << 18  # places looked at at a time
_SLOTS = 24  # bits
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # a product with it has no pattern in its upper bits
# Secrets that are no secret: none at all, and the demo corpora's.
_KNOWN_SECRETS = (b"", b"secret", b"understudy", b"demo keys hide nothing")
_ALGORITHMS = ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s")
_HASHED = re.compile("[0-9a-f]{8}|[0-9a-f]{16,}")
_STARTS = 1 + len(_ALGORITHMS) + len(_KNOWN_SECRETS)  # of keys that a text may be turned into


class Needles:
    """What to look for in shards: the names' last parts, with and without extension. `too_short` is the number of
    names of which nothing, or only the form with extension, is long enough not to come up by chance.
    """

    def __init__(self, names: Sequence[str]):
        paths = {PurePath(name) for name in names if name.strip()}
        self.too_short = sum(len(path.stem) < SHORTEST for path in paths)
        self._needles = {os.fsencode(p) for path in paths for p in (path.name, path.stem) if len(p) >= SHORTEST}
        self.longest = max(map(len, self._needles), default=0)
        # By their first 8 bytes as a number, how long they are.
        self._lengths: dict[int, tuple[int, ...]] = {}
        for needle in self._needles:
            start = int.from_bytes(needle[:8], "little")
            known = self._lengths.get(start, ())
            if len(needle) not in known:
                self._lengths[start] = (*known, len(needle))
        self._starts = np.array(sorted(self._lengths), np.uint64)
        self._slots = np.zeros(1 << _SLOTS if self._needles else 0, np.bool_)
        self._slots[_slot(self._starts)] = True

    def found_in(self, data: bytes) -> list[bytes]:
        """Those that occur in `data`, sorted."""
        found = set[bytes]()
        for shift in range(8 if len(self._starts) else 0):
            windows = np.frombuffer(data, "<u8", max(0, len(data) - shift) // 8, min(shift, len(data)))
            for block in range(0, len(windows), _BLOCK):
                part = windows[block : block + _BLOCK]
                likely = np.flatnonzero(self._slots[_slot(part)])
                likely = likely[np.isin(part[likely], self._starts)]
                for place, start in zip(likely.tolist(), part[likely].tolist()):
                    at = shift + 8 * (block + place)
                    texts = (data[at : at + length] for length in self._lengths[start])
                    found.update(text for text in texts if text in self._needles)
        return sorted(found)


def _slot(windows: np.ndarray) -> np.ndarray:
    return (windows * _SPREAD) >> np.uint64(64 - _SLOTS)


class Linkable:
    """Keys that anyone could make from names without a secret: the names, their plain hashes, whole or cut to 32 or 16
    digits, their CRC, and hashes keyed with a secret that everybody knows. Holds 12 bytes of each, not the keys.
    """

    def __init__(self, names: Sequence[str]):
        paths = {name: PurePath(name) for name in names if name.strip()}
        self._texts = sorted({text for name, path in paths.items() for text in (name, path.name, path.stem) if text})
        raw = bytearray()
        for text in self._texts:
            for start in _starts(os.fsencode(text)):
                raw += start
        starts = np.frombuffer(raw, ">u8").astype(np.uint64)
        self._order = np.argsort(starts).astype(np.int32)
        self._starts = starts[self._order]
        self._plain = frozenset(self._texts)

    def how(self, key: str) -> str | None:
        """How the key can be made; None where it can't."""
        if key in self._plain:
            return f"the name {key!r}"
        if not _HASHED.fullmatch(key):
            return None
        start = np.uint64(int(key[:16].ljust(16, "0"), 16))
        first, last = (int(np.searchsorted(self._starts, start, side)) for side in ("left", "right"))
        made = (_keys(self._texts[number // _STARTS]) for number in self._order[first:last].tolist())
        return next((keys[key] for keys in made if key in keys), None)


def _starts(raw: bytes) -> Iterator[bytes]:
    """The first 8 bytes of all that `_keys` gives of a text, but the text."""
    yield zlib.crc32(raw).to_bytes(4, "big") + bytes(4)
    yield from (hashlib.new(name, raw, usedforsecurity=False).digest()[:8] for name in _ALGORITHMS)
    yield from (hmac.digest(secret, raw, "sha256")[:8] for secret in _KNOWN_SECRETS)


def _keys(text: str) -> dict[str, str]:
    """The keys that can be made from a text, with how."""
    raw, keys = os.fsencode(text), dict[str, str]()
    crc = f"{zlib.crc32(raw):08x}"
    if not crc.isdigit():  # as that may be a sample's number
        keys[crc] = f"the CRC of {text!r}"
    for algorithm in _ALGORITHMS:
        digest = hashlib.new(algorithm, raw, usedforsecurity=False).hexdigest()
        keys[digest] = keys[digest[:32]] = keys[digest[:16]] = f"the plain {algorithm} of {text!r}"
    for secret in _KNOWN_SECRETS:
        digest = hmac.digest(secret, raw, "sha256").hex()
        keys[digest] = keys[digest[:32]] = f"the hash of {text!r} keyed with a secret that is known"
    return keys

"""Which decoder to use. Each lives in a file of its own, imported when chosen; `reference.py` defines what is right."""

from __future__ import annotations

from understudy.loader.request import Decoder
from understudy.shards.errors import UserError

DECODERS = ("auto", "native", "reference")


def choose_decoder(name: str) -> Decoder:
    """The decoder called `name`; "auto" is the fastest that there is here. Raises UserError for another name."""
    if name not in DECODERS:
        raise UserError(f"no decoder {name!r}; choose one of {', '.join(DECODERS)}")
    from understudy.loader.native import check_native, decode_native, native_kernels
    from understudy.loader.reference import decode_reference

    if name == "native" or (name == "auto" and native_kernels()):
        check_native()
        return decode_native
    return decode_reference

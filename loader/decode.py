"""Which decoder to use. Each lives in a file of its own, imported when chosen; `reference.py` defines what is right."""

from __future__ import annotations

from functools import partial

import torch

from understudy.loader.request import BatchDecoder, Decoder
from understudy.shards.errors import UserError
from understudy.shards.kinds import Codec

DECODERS = ("auto", "native", "plain", "dali", "reference")
CPU = torch.device("cpu")

# What "auto" leaves to DALI where clips go to a GPU. Nothing, until benchmarks/gpu.py has shown on one that DALI is
# faster there than the native kernel on the host.
FASTER_ON_GPU: tuple[Codec, ...] = ()


def choose_decoder(
    name: str, codec: Codec = "mjpeg", device: torch.device = CPU, threads: int = 0
) -> Decoder | BatchDecoder:
    """The decoder called `name` for `codec`, for clips that go to `device`; "auto" is the fastest that there is here.

    One that threads on its own keeps to `threads`, those of its callers included; 0 is one a core.
    Raises UserError for another name, or where that decoder can't be used.
    """
    name = resolve_decoder(name, codec, device)
    if name == "dali":
        from understudy.loader.dali import dali_decoder

        return dali_decoder(codec, device, threads=threads or None)
    if name == "native":
        from understudy.loader.native import check_native, decode_native

        check_native()
        return partial(decode_native, threads=threads) if threads else decode_native
    if name == "plain":
        from understudy.loader.plain import decode_plain

        return decode_plain
    from understudy.loader.reference import decode_reference

    return decode_reference


def resolve_decoder(name: str, codec: Codec, device: torch.device) -> str:
    """The decoder that `name` stands for, which may be "auto". Raises UserError for another name."""
    from understudy.loader.native import fast_kernel

    if name not in DECODERS:
        raise UserError(f"no decoder {name!r}; choose one of {', '.join(DECODERS)}")
    if name != "auto":
        return name
    if device.type == "cuda" and codec in FASTER_ON_GPU:
        return "dali"
    return "native" if fast_kernel() else "plain"

"""What gpu.py measures of decoding: agreement with the reference, and clips a second on the device by each way."""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.loader.decode import choose_decoder
from understudy.loader.philox import stream_key
from understudy.loader.read import ShardReader
from understudy.loader.reference import decode_reference
from understudy.loader.request import BatchDecoder, Decoder, Request
from understudy.loader.views import draw_training
from understudy.shards.corpus import Corpus

SEED = 0
MEAN_LIMIT, PERCENTILE_LIMIT = 1.0, 4.0  # the loader's contract, in steps of 255


@dataclass(frozen=True)
class Rate:
    """Clips (rows of batches, views counted) a second, and what a clip costs all threads of this process."""

    clips_per_second: float
    cpu_ms_per_clip: float


def requests_of(corpus: Corpus, clip: Clip, views: int) -> list[Request]:
    """One training window of each sample of `corpus`, with `views` crops, as the loader asks for them."""
    reader, setting = ShardReader(corpus), Views(views)
    key = stream_key("views", corpus.manifest.digest, SEED)
    made: list[Request] = []
    for sample in range(len(corpus)):
        width, height = int(corpus.width[sample]), int(corpus.height[sample])
        draw = draw_training(clip, setting, int(corpus.frames[sample]), width, height, key, sample, 0)
        payload, reason = reader.read(sample)
        if reason is not None:
            raise ValueError(f"{corpus.keys[sample]}: {reason}")
        own = tuple(bytes(member) for member in payload)
        made.append(Request(own, corpus.manifest.codec, draw.windows[0], draw.crops, draw.flips, width, height))
    return made


def decoded(
    decoder: Decoder | BatchDecoder, requests: Sequence[Request], size: int
) -> tuple[NDArray[np.uint8], list[str | None]]:
    """The clips of all requests, uint8 (n, K, 3, T, S, S), in host memory."""
    shape = (len(requests), len(requests[0].crops), 3, len(requests[0].frames), size, size)
    if isinstance(decoder, BatchDecoder):
        out = torch.empty(shape, dtype=torch.uint8, device=decoder.device)
        reasons = decoder.decode(requests, [decoder.check(request) for request in requests], out)
        return out.cpu().numpy(), reasons
    clips = np.empty(shape, np.uint8)
    return clips, decoder(requests, clips)


def agreement(name: str, corpus: Corpus, clip: Clip, device: torch.device, samples: int) -> dict[str, Any]:
    """How far the clips of the decoder `name` are from the reference's: mean and 99th percentile, in steps of 255."""
    requests = requests_of(corpus, clip, views=4)[:samples]
    decoder = choose_decoder(name, corpus.manifest.codec, device)
    if isinstance(decoder, BatchDecoder):
        _only_there(decoder, requests)
    clips, reasons = decoded(decoder, requests, clip.size)
    expected, _ = decoded(decode_reference, requests, clip.size)
    difference = np.abs(clips.astype(np.int16) - expected)
    mean, high = float(difference.mean()), float(np.percentile(difference, 99))
    # Frames that are one off would differ less from their neighbours in time than from those asked for.
    moved = np.abs(np.roll(clips, 1, axis=3).astype(np.int16) - expected).mean()
    return {
        "mean_difference": mean,
        "percentile_99_difference": high,
        "max_difference": int(difference.max()),
        "same_frames": bool(mean < moved),
        "refused": sum(reason is not None for reason in reasons),
        "agrees": mean <= MEAN_LIMIT and high <= PERCENTILE_LIMIT and mean < moved and not any(reasons),
    }


def bad_sample(name: str, corpus: Corpus, clip: Clip, device: torch.device) -> dict[str, Any]:
    """Whether a batch with a damaged sample leaves its neighbours and the next batch alone."""
    decoder = choose_decoder(name, corpus.manifest.codec, device)
    good = requests_of(corpus, clip, views=1)[:2]
    whole = bytes(good[0].payload[0])
    middle = len(whole) // 2
    junk = Request(
        (whole[: middle // 4] + bytes(len(whole) - middle // 4), *good[0].payload[1:]),
        good[0].codec,
        good[0].frames,
        good[0].crops,
        good[0].flips,
        good[0].width,
        good[0].height,
    )
    expected, _ = decoded(decoder, good, clip.size)
    clips, reasons = decoded(decoder, [good[0], junk, good[1]], clip.size)
    again, later = decoded(decoder, good, clip.size)
    return {
        "reason": reasons[1],
        "harmless": reasons[1] is not None  # junk that is decoded in silence is worse than junk that is refused
        and reasons[0] is None
        and reasons[2] is None
        and not any(later)
        and float(np.abs(clips[[0, 2]].astype(np.int16) - expected).mean()) <= MEAN_LIMIT
        # Not to the bit: the engine and the CUDA kernels for JPEGs share a batch, and round differently.
        and float(np.abs(again.astype(np.int16) - expected).mean()) <= MEAN_LIMIT,
    }


def batch_rate(decoder: BatchDecoder, corpus: Corpus, clip: Clip, views: int, samples: int, seconds: float) -> Rate:
    """How fast a decoder makes batches of `samples` videos out of bytes in memory, on its device."""
    requests = requests_of(corpus, clip, views)
    _only_there(decoder, requests)  # asked by the loader's threads, not timed here
    batches = cycle(_batches(requests, samples))
    shape = (samples, views, 3, clip.frames, clip.size, clip.size)
    # Two, as a loader has: one is read while the next is written.
    outs = cycle([torch.empty(shape, dtype=torch.uint8, device=decoder.device) for _ in range(2)])

    def one() -> int:
        batch = next(batches)
        reasons = decoder.decode(batch, [None] * len(batch), next(outs))
        if any(reasons):
            raise ValueError(f"samples were refused: {next(reason for reason in reasons if reason)}")
        return len(batch) * views

    return _rate(one, decoder.device, seconds)


def loader_rate(
    corpus: Corpus, clip: Clip, views: int, samples: int, decoder: str, device: torch.device, seconds: float
) -> Rate:
    """The same of the whole loader: shards read, decoded, copied to the device, and nothing done with the batches."""
    chosen = choose_decoder(decoder, corpus.manifest.codec, device)
    if isinstance(chosen, BatchDecoder):
        _only_there(chosen, requests_of(corpus, clip, views))
    with ClipLoader(
        [LoaderSource(corpus)], clip, Views(views), samples * views, SEED, decoder, device=device
    ) as loader:

        def one() -> int:
            batch = next(loader)
            return len(batch.clips)

        rate = _rate(one, device, seconds)
        if loader.skipped:
            raise ValueError(f"samples were skipped: {loader.skipped}")
        return rate


def _only_there(decoder: BatchDecoder, requests: Sequence[Request]) -> None:
    """Raises ValueError where some would be decoded on the host, or not at all: what is measured then is not it."""
    refused = next(filter(None, map(decoder.check, requests)), None)
    if refused:
        raise ValueError(f"samples are not decoded by it: {refused}")


def torchvision_rate(corpus: Corpus, clip: Clip, samples: int, device: torch.device, seconds: float) -> Rate:
    """nvJPEG as torchvision calls it: whole frames to RGB, no crops. A bound for whatever comes after it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    requests = requests_of(corpus, clip, views=1)
    batches = cycle([[jpeg for request in batch for jpeg in _jpegs(request)] for batch in _batches(requests, samples)])

    def one() -> int:
        batch = next(batches)
        decode_jpeg(batch, mode=ImageReadMode.RGB, device=device)
        return len(batch) // clip.frames

    return _rate(one, device, seconds)


def copy_rate(clip: Clip, rows: int, device: torch.device, seconds: float) -> float:
    """Bytes a second from pinned host memory to the device."""
    shape = (rows, 3, clip.frames, clip.size, clip.size)
    host = torch.zeros(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty(shape, dtype=torch.uint8, device=device)

    def one() -> int:
        there.copy_(host, non_blocking=True)
        return rows

    return _rate(one, device, seconds).clips_per_second * (host.numel() / rows)


def _rate(one: Callable[[], int], device: torch.device, seconds: float) -> Rate:
    """Call `one`, which says how many clips it made, for `seconds` after two calls that are not counted."""
    one()
    one()
    wait_for(device)
    behind: deque[torch.cuda.Event] = deque()  # what was asked for must not pile up
    started, cpu, made = time.perf_counter(), _cpu_seconds(), 0
    while (now := time.perf_counter()) - started < seconds:
        made += one()
        if device.type == "cuda":
            behind.append(torch.cuda.Event(blocking=True))
            behind[-1].record()
            if len(behind) > 2:
                behind.popleft().synchronize()
    wait_for(device)
    now = time.perf_counter()
    return Rate(made / (now - started), 1000 * (_cpu_seconds() - cpu) / made)


def wait_for(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _batches(requests: Sequence[Request], samples: int) -> list[list[Request]]:
    """A few batches of `samples` requests each, all requests used alike."""
    endless: Iterator[Request] = cycle(requests)
    return [list(islice(endless, samples)) for _ in range(max(2, -(-len(requests) // samples)))]


def _jpegs(request: Request) -> list[torch.Tensor]:
    stream, index = (np.frombuffer(member, np.uint8) for member in request.payload)
    offsets = index.view("<i8").tolist()
    return [torch.from_numpy(stream[offsets[i] : offsets[i + 1]].copy()) for i in request.frames.tolist()]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

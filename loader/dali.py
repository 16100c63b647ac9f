"""The DALI decoder, for whole batches: on a GPU nvJPEG or NVDEC, on a CPU DALI's own operators for JPEGs alone.

DALI gives up a pipeline at the first bad sample. So headers are checked before; a batch that it refuses all the same is
decoded on the host, which tells the good from the bad, and the pipelines are built anew.
"""

# DALI has annotations for some of its names only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
import torch
from numpy.typing import NDArray

from understudy.loader.batch import default_threads
from understudy.loader.decode import choose_decoder
from understudy.loader.mp4 import Mp4, read_mp4
from understudy.loader.request import BatchDecoder, Decoder, Request
from understudy.shards.errors import UserError
from understudy.shards.kinds import Codec

# One spreads a batch over nvJPEG, or over all NVDEC engines by a decoder a thread (NVIDIA/DALI issue 6387). Several
# would share memory that `decoders.video` gives back before the stream is done with it, which only one stream bears.
PIPELINES: dict[Codec, int] = {"mjpeg": 1, "h264": 1}
# Batches in a row that DALI refuses and the host decodes whole: then it is not the data. One is enough at the start.
UNEXPLAINED = 10
DALI_ERRORS = (RuntimeError, ValueError, IndexError)  # the forms that C++ exceptions take
HOST = "host: "  # how verdicts begin whose samples are to be decoded by the host
# DALI 2.4 keeps decoders of NVDEC by the size that is shown and looks for them by the size that is coded. Where they
# differ it makes a new one for every video, and can take one of another height, whose colours are then wrong.
MACROBLOCK = 16
SIZE = "size: not what the corpus says"
FRAMES = "frames: fewer than the corpus says"
# By the number in a `colr` box. DALI converts every video by BT.601's matrix, which the shards have; without a number,
# it is what the reference takes too.
BT601 = (2, 5, 6)
SLICES = (1, 5)  # units of a frame that hold pixels: H.264's nal_unit_type

log = logging.getLogger(__name__)


def dali_decoder(
    codec: Codec, device: torch.device, *, pipelines: int | None = None, threads: int | None = None
) -> BatchDecoder:
    """A decoder of `codec` for batches on `device`, through so many pipelines with so many threads in all.

    Raises UserError where DALI is not installed, or can't decode `codec` on that device.
    """
    if device.type != "cuda" and codec == "h264":
        raise UserError("DALI decodes h264 on GPUs only; choose the decoder native, or auto")
    try:
        import nvidia.dali  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UserError(f"DALI can't be used here ({error}); choose the decoder native, or auto") from None
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    pipelines = PIPELINES[codec] if pipelines is None else pipelines
    threads = default_threads() if threads is None else threads
    host = choose_decoder("auto", codec)
    assert not isinstance(host, BatchDecoder)
    decoder = _DaliDecoder(codec, device, pipelines, threads, host)
    return BatchDecoder(device, check, decoder.decode)


class _DaliDecoder:
    """Pipelines that are built for the shape of the batches and share each batch among them."""

    def __init__(self, codec: Codec, device: torch.device, pipelines: int, threads: int, host: Decoder) -> None:
        self._codec: Codec = codec
        self._device = device
        self._count = pipelines
        self._threads = threads
        self._host = host
        self._pipelines: list[Any] = []
        self._built_for = (0, 0, 0, 0)  # requests at most, views, frames, size
        self._lent: deque[tuple[torch.cuda.Event, list[Any]]] = deque()  # DALI's memory, until a stream has read it
        self._worked = False
        self._unexplained = 0
        self._told = False

    def decode(
        self, requests: Sequence[Request | None], verdicts: Sequence[str | None], out: torch.Tensor
    ) -> list[str | None]:
        """As `BatchDecoder` has it. Raises UserError where DALI fails and it is not because of the data."""
        reasons: list[str | None] = [None] * len(requests)
        here: list[int] = []
        on_host: list[int] = []
        for i, (request, verdict) in enumerate(zip(requests, verdicts, strict=True)):
            if request is None:
                continue
            if verdict is None:
                here.append(i)
            elif verdict.startswith(HOST):
                on_host.append(i)
                if not self._told:
                    self._told = True
                    log.warning("some samples are decoded on the host instead of by DALI (%s)", verdict)
            else:
                reasons[i] = verdict
        if here:
            # What is not decoded here is a copy of what is: the batch keeps its shape and stays one piece of memory.
            usable = set(here)
            chosen = [requests[i if i in usable else here[0]] for i in range(len(requests))]
            good = [request for request in chosen if request is not None]
            try:
                wrong = self._run(good, out)
            except DALI_ERRORS as error:
                self._drop_pipelines()  # DALI's rule: one that failed is of no use any more
                self._decode_on_host(requests, here, out, reasons)
                self._take_note(error, any(reasons[i] is not None for i in here))
            else:
                self._worked, self._unexplained = True, 0
                for i in usable.intersection(wrong):
                    reasons[i] = SIZE
        self._decode_on_host(requests, on_host, out, reasons)
        for i, request in enumerate(requests):
            if request is None or reasons[i] is not None:
                out[i].zero_()
        return reasons

    def _run(self, requests: list[Request], out: torch.Tensor) -> list[int]:
        """Decode all into `out`; those whose frames have another size. Raises what DALI raises."""
        _, views, _, frames, size, _ = out.shape
        shares = [share for share in np.array_split(np.arange(len(requests)), self._count) if len(share)]
        capacity = len(shares[0])
        if not self._pipelines or capacity > self._built_for[0] or (views, frames, size) != self._built_for[1:]:
            self._drop_pipelines()  # their memory is free before others take theirs
            self._built_for = (capacity, views, frames, size)
            self._pipelines = [self._build(capacity, views, frames, size) for _ in range(self._count)]
        for pipeline, share in zip(self._pipelines, shares):
            for name, value in self._inputs(requests[share[0] : share[-1] + 1]).items():
                pipeline.feed_input(name, value)
            pipeline.schedule_run()
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        while self._lent and self._lent[0][0].query():
            self._lent.popleft()
        wrong: list[int] = []
        views_given: list[Any] = []
        for pipeline, share in zip(self._pipelines, shares):
            *clips, shapes = pipeline.share_outputs(stream)  # what it made is there, in the order of the stream
            for k, view in enumerate(clips):
                whole = view.as_tensor()
                # On a GPU not through DLPack: what is handed over by it goes back with a wait for the whole device.
                made = torch.as_tensor(whole, device=self._device) if stream else torch.from_dlpack(whole)
                made = made.view(len(share), frames, size, size, 3)
                out[share[0] : share[-1] + 1, k].copy_(made.permute(0, 4, 1, 2, 3))
            pipeline.release_outputs()
            views_given += clips
            if self._codec == "h264":
                sizes = np.asarray(shapes.as_array())[:, 1:3].tolist()
                indices: list[int] = share.tolist()
                right = [[requests[i].height, requests[i].width] for i in indices]
                wrong += [i for i, there, asked in zip(indices, sizes, right) if there != asked]
        if stream:
            done = torch.cuda.Event(blocking=True)
            done.record(stream)
            self._lent.append((done, views_given))
        return wrong

    def _drop_pipelines(self) -> None:
        while self._lent:
            done, views = self._lent.popleft()
            done.synchronize()
            del views
        self._pipelines = []

    def _build(self, requests: int, views: int, frames: int, size: int) -> Any:
        from nvidia.dali.pipeline import Pipeline

        on_gpu = self._device.type == "cuda"
        pipeline: Any = Pipeline(
            batch_size=requests * (frames if self._codec == "mjpeg" else 1),
            num_threads=max(1, self._threads // self._count),
            device_id=self._device.index if on_gpu else None,
            prefetch_queue_depth=1,  # batches come one by one, and the loader is ahead by itself
        )
        with pipeline:
            pipeline.set_outputs(*_graph(self._codec, on_gpu, views, size))
        pipeline.build()
        return pipeline

    def _inputs(self, requests: list[Request]) -> dict[str, Any]:
        """What the graph's sources take, a row a picture for JPEGs and a row a video else. Boxes are y, x, h, w."""
        boxes = np.array([request.crops for request in requests], np.int32)[..., [1, 0, 3, 2]]
        flips = np.array([request.flips for request in requests], np.bool_)
        inputs: dict[str, Any] = {}
        if self._codec == "h264":
            inputs["encoded"] = [np.frombuffer(request.payload[0], np.uint8) for request in requests]
            inputs["frames"] = np.array([request.frames for request in requests], np.int32)
        else:
            inputs["encoded"] = [jpeg for request in requests for jpeg in _jpegs(request)]
            rows = len(requests[0].frames)
            boxes, flips = boxes.repeat(rows, axis=0), flips.repeat(rows, axis=0)
            if self._device.type != "cuda":  # only what some view needs is decoded
                first = boxes[..., :2].min(axis=1)
                inputs["first"] = first
                inputs["extent"] = (boxes[..., :2] + boxes[..., 2:]).max(axis=1) - first
                boxes[..., :2] -= first[:, None]
        for k in range(boxes.shape[1]):
            inputs[f"corner{k}"] = np.ascontiguousarray(boxes[:, k, :2])
            inputs[f"size{k}"] = np.ascontiguousarray(boxes[:, k, 2:])
            # DALI mirrors a region that ends before it starts.
            start, end = np.zeros((len(boxes), 2), np.float32), boxes[:, k, 2:].astype(np.float32)
            flipped = flips[:, k]
            start[flipped, 1], end[flipped, 1] = end[flipped, 1], 0
            inputs[f"start{k}"], inputs[f"end{k}"] = start, end
        return inputs

    def _decode_on_host(
        self, requests: Sequence[Request | None], which: list[int], out: torch.Tensor, reasons: list[str | None]
    ) -> None:
        if not which:
            return
        some = [request for i in which if (request := requests[i]) is not None]
        clips = np.empty((len(some), *out.shape[1:]), np.uint8)

        def decode(i: int) -> str | None:
            return self._host(some[i : i + 1], clips[i : i + 1])[0]

        with ThreadPoolExecutor(self._threads) as pool:
            answers = list(pool.map(decode, range(len(some))))
        for i, reason, clip in zip(which, answers, clips):
            reasons[i] = reason
            out[i].copy_(torch.from_numpy(clip))

    def _take_note(self, error: Exception, explained: bool) -> None:
        if explained:
            self._unexplained = 0
            return
        self._unexplained += 1
        said = " ".join(str(error).split())
        if self._unexplained == 1 and self._worked:
            log.warning("DALI refused a batch that is decoded on the host instead: %s", said)
        if self._unexplained == UNEXPLAINED or not self._worked:
            raise UserError(f"DALI can't decode here; choose the decoder native. It says: {said}") from error


def _graph(codec: Codec, on_gpu: bool, views: int, size: int) -> list[Any]:
    """The views, each (S, S, 3) a picture or (T, S, S, 3) a video, and the shape of what was decoded."""
    import nvidia.dali as dali

    ops: Any = dali.fn
    types: Any = dali.types
    source = partial(ops.external_source, batch=True)
    encoded = source(name="encoded", dtype=types.UINT8, ndim=1)
    device: Literal["mixed", "cpu"] = "mixed" if on_gpu else "cpu"
    # Threads that are bound to cores would all be bound to the same few by several pipelines.
    loose = {"affine": False} if on_gpu else {}
    if codec == "h264":
        frames = source(name="frames", dtype=types.INT32, ndim=1)
        decoded = ops.decoders.video(encoded, device=device, frames=frames, **loose)
    elif on_gpu:
        # Whole pictures, as the engines for JPEG know no regions; chroma is interpolated as libjpeg-turbo does it.
        decoded = ops.decoders.image(
            encoded, device=device, jpeg_fancy_upsampling=True, adjust_orientation=False, **loose
        )
    else:
        first, extent = (source(name=name, dtype=types.INT32, ndim=1) for name in ("first", "extent"))
        decoded = ops.decoders.image_slice(
            encoded, device=device, start=first, shape=extent, axis_names="HW", adjust_orientation=False
        )
    clips: list[Any] = []
    for k in range(views):
        corner, extent = (source(name=f"{name}{k}", dtype=types.INT32, ndim=1) for name in ("corner", "size"))
        start, end = (source(name=f"{name}{k}", dtype=types.FLOAT, ndim=1) for name in ("start", "end"))
        # Cut first: resizing a region of a picture would mix in what lies beside it.
        cut = ops.slice(decoded, start=corner, shape=extent, axis_names="HW")
        clips.append(ops.resize(cut, roi_start=start, roi_end=end, size=[size, size], antialias=False))
    return [*clips, decoded.shape()]


def check(request: Request) -> str | None:
    """None if DALI may have it, HOST and why for what other decoders do better, else why it can't be used.

    Of a damaged video DALI gives what it has in memory, or other frames, without a word. What is not whole is left to
    the host therefore; bits that are wrong inside of a slice are not noticed.
    """
    if len(request.crops) and not _inside(request.crops, request.width, request.height):
        return "crop: not inside the frame"
    if request.codec == "mjpeg":
        return _check_jpegs(request)
    data = memoryview(request.payload[0])
    file = read_mp4(data)
    if file is None:
        return f"{HOST}no plain mp4"
    if request.width % MACROBLOCK or request.height % MACROBLOCK:
        return f"{HOST}{request.width} x {request.height}, and NVDEC takes multiples of {MACROBLOCK}"
    last = int(request.frames.max())
    if int(request.frames.min()) < 0 or last >= len(file.sizes):
        return FRAMES
    if len(np.unique(request.frames)) < len(request.frames):  # for each that comes again it starts from the beginning
        return f"{HOST}frames that are repeated"
    if _matrix(data) not in BT601:
        return f"{HOST}colours by another matrix than BT.601"
    return None if _whole(data, file, last) else f"{HOST}damaged frames"


def _whole(data: memoryview, file: Mp4, last: int) -> bool:
    """Whether each frame up to number `last` is filled by units of a length of their own, a slice among them."""
    if len(file.configuration) < 5 or file.configuration[4] & 3 != 3:  # lengths of 4 bytes, as FFmpeg writes them
        return False
    for at, size in zip(file.offsets[: last + 1].tolist(), file.sizes[: last + 1].tolist()):
        end, pixels = at + size, False
        while at < end:
            length = int.from_bytes(data[at : at + 4], "big")
            if length < 1 or at + 4 + length > end:
                return False
            pixels |= data[at + 4] & 31 in SLICES
            at += 4 + length
        if not pixels:
            return False
    return True


def _inside(boxes: NDArray[np.int32], width: int, height: int) -> bool:
    x, y, w, h = boxes.astype(np.int64).T
    return bool(((x >= 0) & (y >= 0) & (w > 0) & (h > 0) & (x + w <= width) & (y + h <= height)).all())


def _check_jpegs(request: Request) -> str | None:
    stream, index = request.payload
    if memoryview(index).nbytes % 8 or memoryview(index).nbytes < 16:
        return "offsets: not int64 numbers"
    offsets = np.frombuffer(index, "<i8")
    if offsets[0] != 0 or offsets[-1] != len(stream) or bool((np.diff(offsets) <= 0).any()):
        return "offsets: do not fit the frames"
    if int(request.frames.min()) < 0 or int(request.frames.max()) >= len(offsets) - 1:
        return FRAMES
    for jpeg in _jpegs(request):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        except ValueError:
            return "jpeg: does not decode"
        if (int(width), int(height)) != (request.width, request.height):
            return SIZE
        if jpeg[-2:].tobytes() != b"\xff\xd9":  # cut short; DALI would fill it up with grey
            return "jpeg: does not decode"
    return None


def _jpegs(request: Request) -> list[NDArray[np.uint8]]:
    stream, index = request.payload
    data, offsets = np.frombuffer(stream, np.uint8), np.frombuffer(index, "<i8").tolist()
    return [data[offsets[i] : offsets[i + 1]] for i in request.frames.tolist()]


def _matrix(data: bytes | memoryview) -> int:
    """The number of the colour matrix in an mp4's `colr` box, 2 (not said) where there is none."""
    whole = bytes(data)
    at = whole.find(b"colrnclx")
    return int.from_bytes(whole[at + 12 : at + 14], "big") if at >= 0 else 2

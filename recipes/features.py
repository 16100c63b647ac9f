"""Features of a frozen encoder on a corpus, taken once and kept on disk: probes then cost one pass over the videos."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from understudy.loader import Clip, EvalLoader, EvalViews
from understudy.models.vit import VideoViT, to_patches
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import fsync_folder

Level = Literal["pooled", "tokens"]
FORMAT = 2  # of what lies in a cache: features and results of another format are made anew
DTYPES: dict[Level, tuple[str, type, torch.dtype]] = {
    "pooled": ("F32", np.float32, torch.float32),
    "tokens": ("F16", np.float16, torch.float16),
}


@dataclass(frozen=True)
class Features:
    """Of every video of a corpus, in its order: `values` (videos, views, width) float32, or (videos, views, tokens,
    width) float16; `ok` (videos,) bool, false where it could not be decoded; and what the pass over them took.
    """

    values: Tensor
    ok: Tensor
    seconds: float  # that the pass over the videos took, also if that was before
    cached: bool


def view_count(features: Features) -> int:
    """Views of all videos together."""
    return features.values.shape[0] * features.values.shape[1]


def weights_digest(module: nn.Module) -> str:
    """Hex SHA-256 over names, shapes and float32 values of a module's parameters: the same in whatever file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().float().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} ".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def encoder_key(encoder: VideoViT) -> dict[str, Any]:
    """What tells an encoder from others in the name of what is cached: heads, pooling and epsilons are in its config
    alone, and compute something else with the same weights.
    """
    return {"weights": weights_digest(encoder), "encoder": asdict(encoder.config)}


def frozen_features(
    accelerator: Accelerator,
    encoder: VideoViT,
    corpus: Corpus,
    clip: Clip,
    views: EvalViews,
    *,
    level: Level,
    threads: int,
    cache: Path | None,
    batch_size: int = 64,
) -> Features:
    """Features of all videos on every rank: the pooled ones after the last norm, or all tokens, each after that norm.

    With a folder `cache` they are looked for there first, by the encoder, the corpus, the views and the precision, and
    kept there whole or not at all; tokens of base take 2.4 MB a view. Without one they stay in memory. Raises UserError
    where the disk has no room for them.
    """
    encoder = encoder.to(accelerator.device).eval()
    per_video = views.clips * views.crops
    shape = (len(corpus), per_video, *([encoder.config.tokens] if level == "tokens" else []), encoder.config.width)
    about: dict[str, Any] = {
        "format": FORMAT,
        **encoder_key(encoder),
        "corpus": corpus.manifest.digest,
        "clip": asdict(clip),
        "views": asdict(views),
        "level": level,
        "precision": accelerator.mixed_precision,
    }
    file = None if cache is None else cache / f"{corpus.manifest.name}-{_digest(about)[:24]}.safetensors"
    if file is not None and file.exists():
        return _load(file, about)

    started = time.perf_counter()
    # Memory of its own on each rank without a cache; else the main process writes into the file itself.
    writer = None
    if file is not None and accelerator.is_main_process:
        writer = _Writer(file, shape, level, about)
        values, ok = writer.values, writer.ok
    else:
        kept = shape if file is None else (0,)
        values, ok = np.zeros(kept, DTYPES[level][1]), np.zeros(len(corpus), np.bool_)

    def forward(clips: Tensor) -> Tensor:
        if level == "pooled":
            return encoder(clips).to(DTYPES[level][2])
        return encoder.norm(encoder.tokens(to_patches(clips, encoder.config))).to(DTYPES[level][2])

    for ids, rows, row_ok in one_pass(accelerator, forward, corpus, clip, views, threads, batch_size):
        if file is None or accelerator.is_main_process:
            values[ids.numpy()], ok[ids.numpy()] = rows.numpy(), row_ok.numpy()
    seconds = time.perf_counter() - started
    if writer is not None:
        writer.publish(seconds)
    accelerator.wait_for_everyone()
    if file is not None:
        return replace(_load(file, about), cached=False)
    return Features(torch.from_numpy(values), torch.from_numpy(ok), seconds, False)


@torch.no_grad()
def one_pass(
    accelerator: Accelerator,
    forward: Callable[[Tensor], Tensor],
    corpus: Corpus,
    clip: Clip,
    views: EvalViews,
    threads: int,
    batch_size: int = 64,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each video of a corpus once, of all ranks together and on every rank: sample numbers (n,), what `forward` makes
    of the views' clips (n, views, ...), and ok (n,). `batch_size` is in views of one process.
    """
    per_video = views.clips * views.crops
    loader = EvalLoader(
        corpus,
        clip,
        views,
        batch_size=max(1, batch_size // per_video) * per_video * accelerator.num_processes,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        threads=threads,
    )
    silent = None if accelerator.is_main_process else True
    for batch in tqdm(loader, desc=f"views of {corpus.manifest.name}", disable=silent, leave=False):
        with accelerator.autocast():
            rows = forward(batch.clips)
        rows, ids, ok = accelerator.gather((rows, batch.ids, batch.ok))
        ids, ok = ids[::per_video].cpu(), ok[::per_video].cpu()
        real = ids >= 0  # padding, which makes the last batch whole, has no id
        yield ids[real], rows.unflatten(0, (-1, per_video)).cpu()[real], ok[real]


class _Writer:
    """A safetensors file that is filled in place, since tokens of a corpus don't fit into memory."""

    def __init__(self, file: Path, shape: tuple[int, ...], level: Level, about: dict[str, Any]) -> None:
        name, kind, _ = DTYPES[level]
        size, videos = int(np.prod(shape)) * np.dtype(kind).itemsize, shape[0]
        header = {
            "__metadata__": {"about": json.dumps(about, sort_keys=True)},
            "seconds": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
            "values": {"dtype": name, "shape": list(shape), "data_offsets": [8, 8 + size]},
            "ok": {"dtype": "BOOL", "shape": [videos], "data_offsets": [8 + size, 8 + size + videos]},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._temporary = file, file.with_name(f".{file.name}.tmp")
        begin = 8 + len(text)
        try:
            with self._temporary.open("wb") as opened:
                # Blocks are taken now: written through memory, a disk that is full later would kill the process.
                os.posix_fallocate(opened.fileno(), 0, begin + 8 + size + videos)
                opened.write(len(text).to_bytes(8, "little") + text)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(file.parent).free
            raise UserError(
                f"{file.parent}: {level} of {videos} videos take {size / 1e9:.1f} GB, {free / 1e9:.1f} are free; make "
                "room, or ask for fewer views"
            ) from None
        self._seconds = np.memmap(self._temporary, np.float64, "r+", begin, (1,))
        self.values = np.memmap(self._temporary, kind, "r+", begin + 8, shape)
        self.ok = np.memmap(self._temporary, np.bool_, "r+", begin + 8 + size, (videos,))

    def publish(self, seconds: float) -> None:
        """Give the file its name, now that it is whole."""
        self._seconds[0] = seconds
        for part in (self._seconds, self.values, self.ok):
            part.flush()
        descriptor = os.open(self._temporary, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        self._temporary.replace(self._file)
        fsync_folder(self._file.parent)


def _load(file: Path, about: dict[str, Any]) -> Features:
    try:
        with safe_open(file, "pt") as opened:
            if json.loads((opened.metadata() or {}).get("about", "{}")) != about:
                raise UserError(f"{file}: features of something else; delete it")
            values, ok = opened.get_tensor("values"), opened.get_tensor("ok")
            return Features(values, ok, float(opened.get_tensor("seconds")), cached=True)
    except SafetensorError as error:
        raise UserError(f"{file}: can't be read ({error}); delete it, and it is made anew") from None


def cache_name(what: str, corpus: Corpus, about: dict[str, Any]) -> str:
    """What a result on a corpus is kept under, so that another of anything in `about` has another name."""
    return f"{what}-{corpus.manifest.name}-{_digest({'format': FORMAT, **about})[:16]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

"""How long the first batches take from a bucket with nothing in the cache, over connections of limited speed.

    python benchmarks/cold_start.py --out benchmarks/results/cold_start.json

starts Ceph's S3 gateway on loopback (tests/storage/rgw.sh) with a corpus of 256 shards of 4 MB: a group of four shards
for each of the 64 lanes of a batch of 64. Every connection gets 1 MB/s, so that a shard takes as long as one of 290 MB
at 72 MB/s. First with whole shards only, then with the first samples read by themselves. About three minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import crc32c
import numpy as np
import simplejpeg
from faults import Fault, FaultServer
from s3_server import Gateway, s3_server
from storage import machine

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.loader import read as reading
from understudy.shards.cache import default_cache
from understudy.shards.corpus import Corpus
from understudy.shards.files import write_atomic
from understudy.shards.manifest import SAMPLES, Manifest, Sample, encode_samples
from understudy.shards.publish import publish
from understudy.shards.remote import Remote
from understudy.shards.tarshard import write_shard

SHARDS, SAMPLES_PER_SHARD, FRAMES = 256, 128, 16
RATE = 1_000_000  # bytes a second of a connection
STEPS = (1, 12)
PLACE = Remote("s3://corpora/start")


def make_corpus(root: Path) -> None:
    """Noise, the same in every sample."""
    root.mkdir()
    chance = np.random.default_rng(0)
    jpegs = [
        simplejpeg.encode_jpeg(chance.integers(0, 256, (32, 40, 3), np.uint8), 95, colorsubsampling="420")
        for _ in range(FRAMES)
    ]
    offsets = np.concatenate([[0], np.cumsum([len(jpeg) for jpeg in jpegs])]).astype("<i8").tobytes()
    members = {"json": b"{}", "mjpg": b"".join(jpegs), "off": offsets}
    checksum = crc32c.crc32c(offsets, crc32c.crc32c(members["mjpg"]))
    shards, rows = [], []
    for number in range(SHARDS):
        keys = [f"{number * SAMPLES_PER_SHARD + row:032x}" for row in range(SAMPLES_PER_SHARD)]
        shard, entries = write_shard(root / f"start-{number:06d}.tar", [(key, members) for key in keys])
        shards.append(shard)
        spans = {entry.name: (entry.offset, entry.size) for entry in entries}
        for row, key in enumerate(keys):
            places = {ext: spans[f"{key}.{ext}"] for ext in members}
            rows.append(Sample(key, number, row, 0, FRAMES, 40, 32, places, checksum))
    data = encode_samples(rows)
    (root / SAMPLES).write_bytes(data)
    Manifest(
        name="start",
        kind="synthetic",
        classes=("noise",),
        licence="none",
        codec="mjpeg",
        fps=6.0,
        short_side=32,
        shards=tuple(shards),
        samples_sha256=hashlib.sha256(data).hexdigest(),
        samples_filesize=len(data),
        frames=FRAMES * len(rows),
        refused=0,
        per_class=(len(rows),),
        tool="benchmark",
        tool_version="0",
    ).save(root)


def first_batches(folder: Path, name: str) -> tuple[dict[str, float], str]:
    """Seconds until each of STEPS had come, and the digest of what did."""
    os.environ["UNDERSTUDY_CACHE"] = str(folder / name)
    corpus, sha, seconds = Corpus.open(PLACE), hashlib.sha256(), dict[str, float]()
    began = time.monotonic()
    with ClipLoader([LoaderSource(corpus)], Clip(8, 2, 32), Views(1), 64, 0, threads=8) as loader:
        for step in range(1, max(STEPS) + 1):
            batch = next(loader)
            sha.update(batch.ids.numpy().tobytes() + batch.clips.numpy().tobytes())
            if step in STEPS:
                seconds[str(step)] = round(time.monotonic() - began, 2)
    return seconds, sha.hexdigest()


def use(gateway: Gateway, endpoint: str) -> None:
    os.environ.update(
        AWS_ENDPOINT_URL=endpoint,
        AWS_ACCESS_KEY_ID=gateway.key,
        AWS_SECRET_ACCESS_KEY=gateway.secret,
        AWS_SESSION_TOKEN=gateway.token,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_corpus(folder / "start")
        with s3_server(folder / "rgw") as gateway, FaultServer(gateway.host) as proxy:
            use(gateway, proxy.address)
            publish(folder / "start", PLACE)
            proxy.set(Fault("slow", times=-1, rate=RATE))
            alone = reading.ALONE
            results, digests = {}, set()
            for name, value in (("whole shards", 0), ("first samples by themselves", alone)):
                reading.ALONE = value
                results[name], digest = first_batches(folder, name)
                digests.add(digest)
                print(name, results[name], flush=True)
            if len(digests) > 1:
                raise SystemExit("the batches differ")
            downloads = default_cache().downloads
    about = {"shards": SHARDS, "samples_per_shard": SAMPLES_PER_SHARD, "rate": RATE, "downloads": downloads}
    text = json.dumps({"machine": machine(), **about, "seconds_to_batch": results}, indent=1)
    write_atomic(args.out, text.encode() + b"\n")


if __name__ == "__main__":
    main()

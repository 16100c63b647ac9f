"""Reading from object storage: our fetch beside other clients, and training from a bucket beside from a folder.

    python benchmarks/storage.py --out storage.json

starts Ceph's S3 gateway on loopback (tests/storage/rgw.sh) and stores a shard and the demo corpus there. Each client
then reads the shard in a process of its own, in turn, over several rounds; what it has read is compared with the
original first. Then stage 1 of the demo job is trained for some steps, from the folder and from the bucket in turn,
with an empty cache and a full one; and the same batches are loaded without training, which hides nothing of what
loading costs. All of it lies in memory, disks being out of this. Results are JSON: medians with all their values, the
intervals of ratios, and CPU seconds of the client.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from machine import processor, versions
from s3_server import BUCKET, Gateway, s3_server
from storage_tables import storage_table
from summary import interval

from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.demo import make_demo
from understudy.shards.fetch import Blob, fetch
from understudy.shards.files import sha256_of, write_atomic
from understudy.shards.machine import usable_cores
from understudy.shards.publish import publish
from understudy.shards.remote import Remote
from understudy.shards.tarshard import write_shard

MEMBER = 2_000_000  # bytes of a sample
PIECE = 1 << 20


# Clients: each reads a shard of the bucket, whole, and returns its SHA-256. `work` holds the shard's index.


def understudy_fetch(work: Path, blob: Blob) -> str:
    with (work / "fetched").open("w+b") as file:
        fetch(blob, file)
    return sha256_of(work / "fetched") if _checking() else ""


def understudy_cache(work: Path, blob: Blob) -> str:
    os.close(Cache(work / "cache", 10 * blob.size).open(blob))
    return sha256_of(work / "cache" / blob.sha256) if _checking() else ""


def boto3_pieces(blob: Blob) -> Iterator[bytes]:
    body = _boto3().get_object(Bucket=BUCKET, Key=blob.remote.name)["Body"]
    while piece := body.read(PIECE):
        yield piece


def obstore_pieces(blob: Blob) -> Iterator[Any]:
    import obstore
    from obstore.store import S3Store

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = S3Store(BUCKET, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})
    yield from obstore.get(store, blob.remote.name).stream(min_chunk_size=PIECE)


def curl_pieces(blob: Blob) -> Iterator[bytes]:
    from webdataset.gopen import gopen

    address = _boto3().generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": blob.remote.name})
    with gopen(f"pipe:curl -s -f '{address}'") as stream:
        while piece := stream.read(PIECE):
            yield piece


def hashed_and_kept(pieces: Callable[[Blob], Iterator[Any]], work: Path, blob: Blob) -> str:
    """What our fetch does with the bytes, with another client."""
    digest = hashlib.sha256()
    with (work / "downloaded").open("w+b") as file:
        for piece in pieces(blob):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def dropped(pieces: Callable[[Blob], Iterator[Any]], work: Path, blob: Blob) -> str:
    digest = hashlib.sha256()
    for piece in pieces(blob):
        if _checking():
            digest.update(piece)
    return digest.hexdigest()


def boto3_download_file(work: Path, blob: Blob) -> str:
    _boto3().download_file(BUCKET, blob.remote.name, str(work / "downloaded"))
    return sha256_of(work / "downloaded") if _checking() else ""


def dali_reader(work: Path, blob: Blob) -> str:
    from nvidia.dali import fn, pipeline_def

    samples, paths = blob.size // MEMBER, [str(blob.remote)]
    indexes = [str((work / blob.remote.name).with_suffix(".idx"))]

    @pipeline_def(batch_size=1, num_threads=2, device_id=None)
    def read() -> Any:
        return fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["mjpg"])

    pipeline = read()
    pipeline.build()
    digest = hashlib.sha256()
    for _ in range(samples):
        (batch,) = pipeline.run()
        if _checking():
            digest.update(batch.at(0).tobytes())
    # It hands out members, not the shard: their digest stands for the shard's.
    members = (work / blob.remote.name).with_suffix(".members").read_text()
    return blob.sha256 if digest.hexdigest() == members else digest.hexdigest()


VERIFIED, KEPT, DROPPED = "sha256 checked, written to a file", "not checked, written to a file", "not checked, dropped"
CLIENTS: dict[str, tuple[Callable[[Path, Blob], str], str]] = {
    "understudy fetch": (understudy_fetch, VERIFIED),
    "boto3 get_object + sha256": (functools.partial(hashed_and_kept, boto3_pieces), VERIFIED),
    "obstore get + sha256": (functools.partial(hashed_and_kept, obstore_pieces), VERIFIED),
    "webdataset pipe:curl + sha256": (functools.partial(hashed_and_kept, curl_pieces), VERIFIED),
    "understudy cache": (understudy_cache, "sha256 checked, written, synced (in memory here), renamed"),
    "boto3 download_file": (boto3_download_file, KEPT),
    "boto3 get_object": (functools.partial(dropped, boto3_pieces), DROPPED),
    "obstore get": (functools.partial(dropped, obstore_pieces), DROPPED),
    "webdataset pipe:curl": (functools.partial(dropped, curl_pieces), DROPPED),
    "DALI readers.webdataset": (dali_reader, "not checked, handed out; index local"),
}


@functools.cache
def _boto3() -> Any:
    import boto3

    return boto3.client("s3", region_name="us-east-1")


def _checking() -> bool:
    """Whether this turn is the one in which clients are compared, not timed."""
    return os.environ.get("CHECKING") == "1"


def read_shard(client: str, work: Path, small: Blob, blob: Blob) -> dict[str, Any]:
    """One turn of a client, in this process, after a small shard: imports and connections are not what is measured."""
    for left in ("fetched", "downloaded", "cache"):
        path = work / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    read, _ = CLIENTS[client]
    read(work, small)
    started, cpu = time.perf_counter(), _cpu_seconds()
    digest = read(work, blob)
    return {"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - cpu, "sha256": digest}


def train(root: str, steps: int, learning: bool) -> dict[str, Any]:
    """Some steps of the demo job's stage 1, in this process; without `learning` only the loader's part of them."""
    import torch

    from understudy.loader import Clip, ClipLoader, LoaderSource, Views
    from understudy.models.mae import MaskedAutoencoder, random_mask
    from understudy.recipes.mixed import demo

    config = demo()
    stage, vit = config.stage1, config.vit
    torch.manual_seed(0)
    module = MaskedAutoencoder(vit, config.mae)
    optimizer = torch.optim.AdamW(module.parameters(), lr=stage.rate, fused=True)
    generator = torch.Generator().manual_seed(0)
    seen = hashlib.sha256()
    corpus = Corpus.open(root)
    started = time.perf_counter()
    with ClipLoader(
        [LoaderSource(corpus)],
        Clip(frames=vit.frames, stride=config.stride, size=vit.size),
        Views(count=stage.views, scale=stage.crop_scale, flip=stage.flip),
        batch_size=stage.batch_size,
        seed=0,
    ) as loader:
        for step in range(steps):
            batch = next(loader)
            if step == 0:
                first, waited = time.perf_counter(), loader.wait_seconds
            seen.update(batch.ids.numpy().tobytes())
            if not learning:
                continue
            visible, masked = random_mask(stage.batch_size, vit.tokens, config.mae.mask_ratio, generator)
            loss = module(batch.clips, visible, masked, batch.ok)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.perf_counter() - first
        return {
            "first_batch_seconds": first - started,
            "samples_per_second": steps * stage.batch_size / seconds,
            "data_share": (loader.wait_seconds - waited) / seconds,
            "sequence": seen.hexdigest(),
        }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each client")
    parser.add_argument("--training-rounds", type=int, default=6)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the shard that clients read")
    parser.add_argument("--clips", type=int, default=1000, help="clips of the demo corpus")
    parser.add_argument("--steps", type=int, default=40, help="steps of training a turn")
    parser.add_argument("--batches", type=int, default=300, help="batches a turn of loading alone")
    parser.add_argument("--turn", help=argparse.SUPPRESS)  # a JSON list: what a child process is to do
    args = parser.parse_args()
    if args.turn:
        kind, *rest = json.loads(args.turn)
        if kind == "read":
            blobs = [Blob(Remote(url), size, digest) for url, size, digest in rest[2:]]
            answer = read_shard(rest[0], Path(rest[1]), *blobs)
        else:
            answer = train(*rest)
        print(json.dumps(answer))
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        work = Path(folder)
        with s3_server(work / "rgw") as gateway:
            point_to(gateway)
            small = store_shard(work, "small", 2)
            results = {
                "benchmark": "storage",
                "clients": compare_clients(work, small, args.megabytes, args.rounds),
                **compare_training(work, small, args),
                **machine(),
            }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, (json.dumps(results, indent=1) + "\n").encode())
    print(storage_table(results))


def compare_clients(work: Path, small: Blob, megabytes: int, rounds: int) -> list[dict[str, Any]]:
    blob = store_shard(work, "large", megabytes)
    rows: dict[str, dict[str, Any]] = {
        name: {"client": name, "note": note, "MB_per_second": [], "cpu_s_per_GB": []}
        for name, (_, note) in CLIENTS.items()
    }
    for round_number in range(rounds + 1):
        checking = round_number == 0
        for name, row in rows.items():
            if "failed" in row:
                continue
            answer = in_child(read_turn(name, work, small, blob), {"CHECKING": "1" if checking else "0"})
            if "failed" in answer:
                row["failed"] = answer["failed"]
            elif checking and answer["sha256"] != blob.sha256:
                row["failed"] = "it read something else"
            elif not checking:
                row["MB_per_second"].append(round(blob.size / 1e6 / answer["seconds"], 1))
                row["cpu_s_per_GB"].append(round(answer["cpu_seconds"] / (blob.size / 1e9), 3))
            say(f"clients, round {round_number} of {rounds}: {name}")
    for row in rows.values():
        if row["MB_per_second"]:
            row["median_MB_per_second"] = statistics.median(row["MB_per_second"])
            row["median_cpu_s_per_GB"] = statistics.median(row["cpu_s_per_GB"])
    return list(rows.values())


def compare_training(work: Path, small: Blob, args: argparse.Namespace) -> dict[str, Any]:
    """`training` and `loading`: the same turns with a training step for each batch, and without."""
    make_demo(work / "demo", clips=args.clips, seed=0, workers=usable_cores())
    local, remote = work / "demo" / "demo-nohuman", Remote(f"s3://{BUCKET}/demo-nohuman")
    publish(local, remote, progress=False)
    corpus = Corpus.open(local)
    largest = max(corpus.manifest.shards, key=lambda shard: shard.filesize)
    blob = Blob(remote / largest.url, largest.filesize, largest.sha256)
    places = {"folder": str(local), "bucket, cold": str(remote), "bucket, warm": str(remote)}
    about = {"clips": args.clips, "shards": len(corpus.manifest.shards), "largest_shard_bytes": largest.filesize}

    def one_fetch() -> float:
        return in_child(read_turn("understudy fetch", work, small, blob), {})["seconds"]

    return {
        "corpus": about,
        "training": take_turns(work, places, [args.steps, True], args.training_rounds, one_fetch),
        "loading": take_turns(work, places, [args.batches, False], args.training_rounds, one_fetch),
    }


def take_turns(
    work: Path, places: dict[str, str], what: list[Any], rounds: int, one_fetch: Callable[[], float]
) -> dict[str, Any]:
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in places}
    fetches: list[float] = []
    for round_number in range(rounds):
        shutil.rmtree(work / "node", ignore_errors=True)
        order = list(places) if round_number % 2 else [*list(places)[1:], "folder"]
        for name in order:  # the warm one comes after the cold one and finds its cache
            place = places[name]
            answer = in_child(["train", place, *what], {"UNDERSTUDY_CACHE": str(work / "node")})
            assert "failed" not in answer, answer
            turns[name].append(answer)
            say(f"{'training' if what[1] else 'loading'}, round {round_number + 1} of {rounds}: {name}")
        fetches.append(one_fetch())
    assert len({turn["sequence"] for place in turns.values() for turn in place}) == 1, "not the same samples"
    summary = {name: {key: [t[key] for t in done] for key in done[0]} for name, done in turns.items()}
    speeds = {name: [t["samples_per_second"] for t in done] for name, done in turns.items()}
    firsts = {name: [t["first_batch_seconds"] for t in done] for name, done in turns.items()}
    fetch_seconds = statistics.median(fetches)
    return {
        "batches": what[0],
        "turns": summary,
        "one_shard_fetch_seconds": fetch_seconds,
        "speed_ratios": {
            name: asdict(interval([b / a for a, b in zip(speeds["folder"], speeds[name])]))
            for name in ("bucket, cold", "bucket, warm")
        },
        "first_batch_seconds_over_folder_and_one_fetch": statistics.median(
            b - a - fetch_seconds for a, b in zip(firsts["folder"], firsts["bucket, cold"])
        ),
    }


def read_turn(client: str, work: Path, *blobs: Blob) -> list[Any]:
    return ["read", client, str(work), *((str(blob.remote), blob.size, blob.sha256) for blob in blobs)]


def store_shard(work: Path, name: str, megabytes: int) -> Blob:
    """A shard of random members in the bucket; its index and the digest of the members in `work`."""
    path = work / f"{name}.tar"
    generator, members = np.random.default_rng(0), hashlib.sha256()

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for number in range(megabytes * 1_000_000 // MEMBER):
            content = generator.bytes(MEMBER)
            members.update(content)
            yield f"{number:032x}", {"mjpg": content}

    shard, _ = write_shard(path, samples())
    path.with_suffix(".members").write_text(members.hexdigest())
    _boto3().upload_file(str(path), BUCKET, path.name)
    path.unlink()
    return Blob(Remote(f"s3://{BUCKET}/{path.name}"), shard.filesize, shard.sha256)


def in_child(turn: list[Any], settings: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--out", os.devnull, "--turn", json.dumps(turn)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def point_to(gateway: Gateway) -> None:
    """Make it the server that this process and its children use, with the lasting credentials."""
    os.environ |= {
        "AWS_ENDPOINT_URL": gateway.endpoint,
        "AWS_ACCESS_KEY_ID": gateway.lasting_key,
        "AWS_SECRET_ACCESS_KEY": gateway.lasting_secret,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def machine() -> dict[str, Any]:
    about = {
        "processor": processor(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "load": os.getloadavg(),
    }
    packages = ("understudy", "boto3", "urllib3", "obstore", "webdataset", "nvidia-dali-cuda130", "torch")
    return {"machine": about, "versions": versions(packages)}


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()

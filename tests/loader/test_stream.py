"""Training and evaluation from corpora that lie elsewhere: the same batches, whatever the network does."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cache_size import held  # pyright: ignore[reportMissingImports]
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.loader import Batch, Clip, ClipLoader, EvalLoader, EvalViews, LoaderSource, Views
from understudy.loader import prefetch as prefetching
from understudy.loader import read as reading
from understudy.loader.order import Order
from understudy.loader.prefetch import Demand, fetch_ahead, room_ahead
from understudy.loader.read import ShardReader
from understudy.shards import fetch as fetching
from understudy.shards import remote as remotes
from understudy.shards import web
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import Blob, StoppedError

CLIP, VIEWS = Clip(4, 2, 16), Views(2, scale=(0.5, 1.0))


@pytest.fixture(scope="module")
def served(build: Callable[..., Corpus], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    root = tmp_path_factory.mktemp("served")
    build(root / "tiny", [5, 9, 8, 7, 10, 3, 8])
    build(root / "long", [4] * 40, name="long", frames=4)
    with FaultServer(root) as server:
        yield server


@pytest.fixture
def server(served: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    served.set(None)
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.02)
    return served


@pytest.fixture
def expect(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """A function that shortens the wait which a fault takes, and no other: this machine may be slow."""

    def expect(fault: Fault) -> None:
        if fault.mode == "stall":
            for module in (web, remotes):
                monkeypatch.setattr(module, "SILENCE_S", 0.6)
            monkeypatch.setattr(fetching, "PART_SILENCE_S", 0.6)

    return expect


def elsewhere(server: FaultServer, folder: Path, name: str = "tiny", limit: int = 10**9) -> Corpus:
    return Corpus.open(f"{server.address}/{name}", Cache(folder, limit))


def here(server: FaultServer, name: str = "tiny") -> Corpus:
    assert isinstance(server.backend, Path)
    return Corpus.open(server.backend / name)


def loader(corpus: Corpus, **settings: Any) -> ClipLoader:
    settings = {"batch_size": 16, "seed": 3, "threads": 2, **settings}
    return ClipLoader([LoaderSource(corpus)], CLIP, VIEWS, **settings)


def take(made: ClipLoader, n: int) -> list[Batch]:
    with made:
        return [next(made) for _ in range(n)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def digest(batches: list[Batch]) -> str:
    """Of the consumed sequence: which samples, whether they could be used, and their pixels."""
    sha = hashlib.sha256()
    for batch in batches:
        for part in (batch.ids, batch.labels, batch.ok, batch.clips):
            sha.update(part.numpy().tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_batches_are_those_of_the_local_corpus(server: FaultServer, tmp_path: Path, world_size: int) -> None:
    for rank in range(world_size):
        ranked = {"rank": rank, "world_size": world_size}
        streamed = take(loader(elsewhere(server, tmp_path / "cache"), **ranked), 15)
        assert digest(streamed) == digest(take(loader(here(server), **ranked), 15))
    assert len(server.downloads()) == 7, "each shard came once"


def test_a_warm_epoch_reads_no_network(server: FaultServer, tmp_path: Path) -> None:
    take(loader(elsewhere(server, tmp_path / "cache")), 8)
    corpus = elsewhere(server, tmp_path / "cache")
    server.set(None)
    take(loader(corpus), 8)
    assert server.requests == []


TABLE = {
    "reset": Fault("reset", after=20_000, times=4, path="tar$"),
    "reset-always": Fault("reset", after=30_000, times=-1, path="tar$"),
    "close": Fault("close", after=20_000, times=4, path="tar$"),
    "503": Fault("503", times=4, path="tar$"),
    "500": Fault("500", times=4, path="tar$"),
    "stall": Fault("stall", after=20_000, times=2, path="tar$"),
    "slow": Fault("slow", rate=500_000, times=-1, path="tar$"),
    "flip": Fault("flip", after=20_000, times=1, path="tar$"),
    "short": Fault("short", after=20_000, times=4, path="tar$"),
    "no-length": Fault("no-length", after=20_000, times=4, path="tar$"),
    "replaced-by-itself": Fault("replaced", after=20_000, path="000003.tar$", replacement="/tiny/tiny-000003.tar"),
}


@pytest.mark.parametrize("name", TABLE)
def test_recoverable_faults_leave_no_trace_in_what_is_trained_on(
    server: FaultServer, tmp_path: Path, name: str, expect: Callable[[Fault], None]
) -> None:
    expect(TABLE[name])
    server.set(TABLE[name])
    made = loader(elsewhere(server, tmp_path / "cache"))
    streamed = take(made, 7)
    assert any(request.fault for request in server.requests)
    assert digest(streamed) == digest(take(loader(here(server)), 7))
    assert made.skipped == {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("503", times=-1, path="tar$"), r"tiny-00000\d\.tar: the server answers 503; gave up after \d+ tries"),
        (Fault("stall", times=-1, path="tar$"), r"tiny-00000\d\.tar: no byte came for 1 s; gave up after \d+ tries"),
        (Fault("flip", after=9, times=-1, path="tar$"), r"tar: its bytes do not fit the digest in the manifest, twice"),
        (Fault("denied", times=-1, path="tar$"), r"tiny-00000\d\.tar: access denied"),
        (
            Fault("replaced", after=9, times=-1, path="tar$", replacement="/long/long-000000.tar"),
            r"tar: (it has \d+ bytes|its bytes do not fit).*, twice",
        ),
    ],
    ids=lambda value: value.mode if isinstance(value, Fault) else "",
)
def test_others_end_the_job_in_one_line(
    server: FaultServer,
    tmp_path: Path,
    fault: Fault,
    words: str,
    expect: Callable[[Fault], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expect(fault)
    monkeypatch.setattr(fetching, "PATIENCE_S", 2.0)
    server.set(fault)
    with loader(elsewhere(server, tmp_path / "cache")) as made, pytest.raises(UserError, match=words) as error:
        next(made)
    assert "\n" not in str(error.value)
    assert "understudy-loader" not in " ".join(thread.name for thread in threading.enumerate())


def test_a_shard_that_is_missing_is_named_when_it_is_its_turn(server: FaultServer, tmp_path: Path) -> None:
    corpus = elsewhere(server, tmp_path / "cache")
    path = here(server).shard_path(2)
    data = path.read_bytes()
    path.unlink()
    try:
        with loader(corpus) as made, pytest.raises(UserError, match=r"tiny-000002\.tar: missing, though the manifest"):
            for _ in range(7):
                next(made)
    finally:
        path.write_bytes(data)


def shards_of(made: ClipLoader, steps: range) -> set[int]:
    """The shards of a loader's only corpus that these steps need."""
    [order], [feed] = made._orders, made._feeds
    return {int(feed.corpus.shard[sample]) for step in steps for sample in order.step(step)[0]}


def test_the_first_batch_waits_for_its_own_shards_only(server: FaultServer, tmp_path: Path) -> None:
    made = loader(elsewhere(server, tmp_path / "cache", "long"), batch_size=4)
    own = "|".join(f"{shard:06d}" for shard in shards_of(made, range(1)))
    released = threading.Event()
    held_back = Fault("slow", times=-1, path=rf"^(?!.*({own})[.]tar)", action=lambda: released.wait(120))
    server.set(held_back)
    try:
        with made:
            next(made)
            wait_for(lambda: any(request.fault for request in server.requests))  # others are asked for too
            released.set()
    finally:
        released.set()


@pytest.mark.parametrize(
    "fault", [None, *("reset", "close", "503", "short", "no-length", "flip", "no-range", "denied", "stall")]
)
def test_the_first_samples_come_by_themselves_and_from_whole_shards_where_that_fails(
    server: FaultServer,
    tmp_path: Path,
    fault: str | None,
    expect: Callable[[Fault], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault is not None:
        expect(Fault(fault))
        server.set(Fault(fault, after=700, times=-1, parts=True))
    monkeypatch.setattr(reading, "ALONE_SHARE", 1)
    released, prepare = threading.Event(), Cache.prepare

    def prepare_late(self: Cache, blob: Blob, stop: threading.Event) -> None:
        released.wait(120)
        prepare(self, blob, stop)

    monkeypatch.setattr(Cache, "prepare", prepare_late)
    try:
        with loader(elsewhere(server, tmp_path / "cache", "long"), batch_size=4) as made:
            streamed = [next(made) for _ in range(3)]
            assert bool(server.downloads()) == bool(fault), "no whole shard unless one is needed"
            parts = len(server.requests) - len(server.downloads())
            assert parts >= 6
            released.set()
            streamed += [next(made) for _ in range(7)]
    finally:
        released.set()
    assert made.skipped == {}
    assert digest(streamed) == digest(take(loader(here(server, "long"), batch_size=4), 10))


def test_few_samples_come_twice(server: FaultServer, tmp_path: Path) -> None:
    """However slowly the shards come, an epoch takes hardly more bytes than the corpus has."""
    corpus = elsewhere(server, tmp_path / "cache", "long")
    total = sum(shard.filesize for shard in corpus.manifest.shards)
    server.set(Fault("slow", rate=200_000, times=-1, smallest=20_000, path="tar$"))
    with loader(corpus, batch_size=4) as made:
        for _ in range(2 * len(corpus) // 4):
            next(made)
    alone = [request for request in server.requests if request not in server.downloads()]
    assert alone
    assert sum(request.sent for request in server.requests if request.path.endswith(".tar")) <= 1.05 * total


def test_a_part_that_does_not_come_soon_is_given_up(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PART_S", 0.3)
    blob = elsewhere(server, tmp_path / "cache").shard_blob(0)
    whole = here(server).shard_path(0).read_bytes()
    assert fetching.read_part(blob, 1000, 3000) == whole[1000:3000]
    server.set(Fault("trickle", times=-1))
    assert fetching.read_part(blob, 1000, 3000) is None
    server.set(None)
    assert fetching.read_part(Blob(blob.remote, blob.size + 1, blob.sha256), 1000, 3000) is None, "it was replaced"
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        fetching.read_part(blob, 1000, 3000, stop)


def test_shards_come_before_their_turn(server: FaultServer, tmp_path: Path) -> None:
    corpus = elsewhere(server, tmp_path / "cache", "long")
    with loader(corpus, batch_size=4) as made:
        for _ in range(20):
            next(made)
        coming = shards_of(made, range(20, 60))
        assert len(coming) > 16, "more than those that are read at once"
        paths = [tmp_path / "cache" / corpus.shard_blob(shard).sha256 for shard in coming]
        wait_for(lambda: all(path.exists() for path in paths))  # while the caller is busy with something else
        server.set(Fault("denied", times=-1))
        for _ in range(40):
            assert next(made).ok.all()


def test_resuming_goes_on_in_the_middle_with_the_same_batches(server: FaultServer, tmp_path: Path) -> None:
    corpus = elsewhere(server, tmp_path / "cache", "long")
    whole = take(loader(here(server, "long")), 12)
    with loader(corpus) as made:
        for _ in range(5):
            next(made)
        state = made.state_dict()
    with loader(corpus) as resumed:
        next(resumed)
        resumed.load_state_dict(state)
        assert digest([next(resumed) for _ in range(7)]) == digest(whole[5:])


def test_closing_in_the_middle_of_downloads_is_quick(server: FaultServer, tmp_path: Path) -> None:
    corpus = elsewhere(server, tmp_path / "cache", "long")
    server.set(Fault("slow", rate=20_000, times=-1, path="^(?!.*(0|1|2|3)[.]tar)"))
    made = loader(corpus, batch_size=4, lanes=1)
    next(made)
    time.sleep(0.2)
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 6
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_cache_too_small_for_what_is_read_at_once_is_refused_before_a_step(
    server: FaultServer, tmp_path: Path
) -> None:
    corpus = elsewhere(server, tmp_path / "cache", "long", limit=400_000)
    words = r"but the 32 shards read at once and those under way take .* GB at once; set UNDERSTUDY_CACHE_LIMIT"
    with pytest.raises(UserError, match=words):
        loader(corpus)
    with loader(corpus, batch_size=2, lanes=1) as made:
        next(made)


def test_loaders_that_are_used_in_turn_share_the_room_of_the_cache(server: FaultServer, tmp_path: Path) -> None:
    sizes = [shard.filesize for shard in here(server, "long").manifest.shards]
    cache = Cache(tmp_path / "cache", 12 * max(sizes))
    corpus = Corpus.open(f"{server.address}/long", cache)  # one alone takes 4 shards at once and 4 under way
    with loader(corpus, batch_size=2, lanes=1) as one, loader(corpus, batch_size=2, lanes=1) as other:
        ClipLoader.share_room([one, other])
        next(one), next(other)
        with loader(corpus, batch_size=2, lanes=1) as third, pytest.raises(UserError, match="the 12 shards read at"):
            ClipLoader.share_room([one, other, third])


def test_a_small_cache_is_never_overfull_and_the_batches_are_the_same(server: FaultServer, tmp_path: Path) -> None:
    sizes = [shard.filesize for shard in here(server, "long").manifest.shards]
    limit = 10 * max(sizes)
    corpus = elsewhere(server, tmp_path / "cache", "long", limit=limit)
    expected = take(loader(here(server, "long"), batch_size=2, lanes=1), 170)
    made = loader(corpus, batch_size=2, lanes=1)
    with made:
        streamed = []
        for _ in range(170):
            streamed.append(next(made))
            assert held(tmp_path / "cache") <= limit
    assert digest(streamed) == digest(expected)
    assert len(server.downloads()) <= 1.25 * 40 * 170 / 160, "what was fetched ahead is not evicted before its turn"


@pytest.mark.parametrize("name", ["tiny", "long"])
def test_a_corpus_that_fits_the_cache_is_fetched_ahead_whole(server: FaultServer, tmp_path: Path, name: str) -> None:
    total = sum(shard.filesize for shard in here(server, name).manifest.shards)
    corpus = elsewhere(server, tmp_path / "cache", name, limit=total)
    with loader(corpus, batch_size=4) as made:
        assert made._room == total
        for _ in range(len(corpus) // 4):  # an epoch has twice as many steps, and some are planned in each
            next(made)
        shards = [tmp_path / "cache" / corpus.shard_blob(i).sha256 for i in range(len(corpus.manifest.shards))]
        wait_for(lambda: all(path.exists() for path in shards))  # while the caller is busy with something else
    assert len(server.downloads()) == len(shards), "each once"


def test_what_the_disk_of_the_cache_damages_is_fetched_again(server: FaultServer, tmp_path: Path) -> None:
    take(loader(elsewhere(server, tmp_path / "cache")), 7)
    for path in (tmp_path / "cache").iterdir():
        if path.stat().st_size > 50_000:
            with path.open("r+b") as file:
                file.seek(5_000)
                file.write(b"rotten" * 1000)
    server.set(None)
    made = loader(elsewhere(server, tmp_path / "cache"))
    assert digest(take(made, 7)) == digest(take(loader(here(server)), 7))
    assert made.skipped == {}
    assert server.downloads()


def test_what_the_disk_damages_again_and_again_is_fetched_as_often(server: FaultServer, tmp_path: Path) -> None:
    corpus = elsewhere(server, tmp_path / "cache")
    reader = ShardReader(corpus)
    path = tmp_path / "cache" / corpus.shard_blob(0).sha256
    for times in (1, 2, 3):
        assert reader.read(0)[1] is None
        assert len(server.downloads()) == times
        with path.open("r+b") as file:
            file.seek(int(corpus.spans[0, 0, 0]))
            file.write(b"rotten" * 10)
    del reader
    reader = ShardReader(corpus, 1)  # which finds a shard sound, and has it open again later
    assert reader.read(0)[1] is None


def test_a_thread_that_opens_a_damaged_shard_while_another_discards_it_reads_the_new_one(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = elsewhere(server, tmp_path / "cache")
    os.close(corpus.open_shard(4))
    path = tmp_path / "cache" / corpus.shard_blob(4).sha256
    damaged = bytearray(path.read_bytes())
    damaged[1024:-2048] = bytes(len(damaged) - 3072)
    path.write_bytes(damaged)

    reader = ShardReader(corpus)
    first, *others = [sample for sample in range(len(corpus.shard)) if corpus.shard[sample] == 4]
    reasons: list[str | None] = []
    threads = [threading.Thread(target=lambda s=s: reasons.append(reader.read(s)[1])) for s in others]
    discard = Cache.discard_if_damaged

    def discard_late(self: Cache, blob: Any) -> bool:
        for thread in threads:
            thread.start()
        time.sleep(0.2)  # they open it, find it damaged and wait for us
        return discard(self, blob)

    monkeypatch.setattr(Cache, "discard_if_damaged", discard_late)
    reasons.append(reader.read(first)[1])
    for thread in threads:
        thread.join()
    assert reasons == [None] * (1 + len(others))


def test_evaluation_streams_every_sample_once(server: FaultServer, tmp_path: Path) -> None:
    def run(corpus: Corpus) -> list[torch.Tensor]:
        return [torch.cat([b.ids, b.clips.flatten()]) for b in EvalLoader(corpus, CLIP, EvalViews(), 8, threads=2)]

    server.set(Fault("reset", after=20_000, times=4, path="tar$"))
    streamed = run(elsewhere(server, tmp_path / "cache"))
    for a, b in zip(streamed, run(here(server)), strict=True):
        assert torch.equal(a, b)
    assert len({request.path for request in server.downloads()}) == 7


def test_plans_are_handed_on_unchanged_and_room_is_kept(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetching, "HORIZON", 50)
    corpus = elsewhere(server, tmp_path / "cache", "long")
    with loader(corpus) as made:
        feed = made._feeds[0]
    size = corpus.manifest.shards[0].filesize
    made_so_far: list[int] = []

    def plans() -> Iterator[Any]:
        for i in range(160):
            made_so_far.append(i)
            yield prefetching.Plan(feed, np.array([i]), np.array([0]))

    ahead: list[int] = []
    for i, plan in enumerate(fetch_ahead(plans(), 3 * size)):
        assert plan.ids.tolist() == [i]
        ahead.append(made_so_far[-1] - i)
    assert len(made_so_far) == 160
    assert ahead[0] == 0, "the first batch does not wait for all that is planned"
    assert 4 * 3 <= max(ahead) <= 4 * 5, "as much is planned as there is room for, and no more"


def test_a_bug_in_a_fetching_thread_reaches_the_caller(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("in a fetching thread")

    corpus = elsewhere(server, tmp_path / "cache")
    monkeypatch.setattr(Cache, "prepare", broken)
    with loader(corpus) as made, pytest.raises(ZeroDivisionError, match="in a fetching thread"):
        for _ in range(50):
            next(made)


class Shelf:
    """Stands in for a cache, its reader and the threads that fill it: counts downloads, all of which are instant. What
    is read at once stays; of the rest, what has not been used for longest makes room.
    """

    def __init__(self, limit: int, sizes: list[int], at_once: int) -> None:
        self.limit, self.sizes, self.at_once = limit, sizes, at_once
        self.held: OrderedDict[int, None] = OrderedDict()
        self.open: OrderedDict[int, None] = OrderedDict()
        self.used = self.downloads = 0

    def require(self, bytes_at_once: int, what: str) -> None:
        assert bytes_at_once <= self.limit, what

    def prepare(self, shard: int) -> bool:
        """Whether there is room."""
        if shard not in self.held:
            unused = (other for other in list(self.held) if other not in self.open)
            while self.used + self.sizes[shard] > self.limit:
                evicted = next(unused, None)
                if evicted is None:
                    return False
                del self.held[evicted]
                self.used -= self.sizes[evicted]
            self.used += self.sizes[shard]
            self.downloads += 1
        self.held[shard] = None
        self.held.move_to_end(shard)
        return True

    def read(self, shard: int) -> None:
        self.open[shard] = None
        self.open.move_to_end(shard)
        if len(self.open) > self.at_once:
            self.open.popitem(last=False)
        assert self.prepare(shard)

    def ask(self, shelf: Shelf, shard: int) -> None:
        assert shelf is self
        self.prepare(shard)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("ranks", "most"), [(8, 1.05), (64, 1.1)])
def test_each_shard_is_downloaded_hardly_more_than_once(
    ranks: int, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole epoch over 100,000 shards in 64 lanes, with ranks that share no cache: each has room for the groups that
    it reads and for as much again, and fetches ahead. Four of the ranks stand for all.
    """
    shards, samples_per_step = 100_000, 2048
    counts = np.random.default_rng(0).integers(20, 45, shards)
    of_shard = np.repeat(np.arange(shards), counts)
    sizes = (counts * 1_000_000).tolist()
    listed = [SimpleNamespace(filesize=size, sha256=number) for number, size in enumerate(sizes)]
    order = Order("0" * 64, counts.tolist(), seed=0, samples_per_step=samples_per_step, lanes=64)
    at_once = order.shards_at_once(ranks)
    downloads = ahead = 0
    for rank in range(0, ranks, ranks // 4):
        shelf = Shelf(2 * (at_once + 4) * max(sizes), sizes, at_once)
        corpus: Any = SimpleNamespace(cache=shelf, manifest=SimpleNamespace(shards=listed), shard=of_shard)
        feed: Any = SimpleNamespace(corpus=corpus, reader=shelf)
        steps = range(len(of_shard) // samples_per_step)
        plans = (prefetching.Plan(feed, *order.step(step, rank, ranks)) for step in steps)
        monkeypatch.setattr(prefetching, "_Fetchers", lambda shelf=shelf: shelf)
        for plan in fetch_ahead(plans, room_ahead([Demand(corpus, at_once)])):
            before = shelf.downloads
            for shard in np.unique(of_shard[plan.ids]).tolist():
                shelf.read(shard)
            ahead += shelf.downloads == before
        downloads += shelf.downloads * ranks // 4
    print(f"{ranks} ranks: {downloads / shards:.4f} downloads a shard")
    assert 0.99 <= downloads / shards <= most
    assert ahead > 0.99 * 4 * len(steps), "hardly a step had to fetch what it needs"

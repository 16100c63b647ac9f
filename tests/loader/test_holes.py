"""Where videos were filled in, from the frames that a packer is given to the cells of every crop in a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import FaultServer
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from webdataset.compat import WebDataset

from understudy.loader import Batch, Clip, ClipLoader, LoaderSource, Views
from understudy.loader.read import ShardReader
from understudy.loader.views import hole_shares
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.holes import CELL, holes_of, holes_record, read_holes
from understudy.shards.kinds import Codec
from understudy.shards.lint import lint
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source

HEIGHT, WIDTH, FRAMES = 48, 70, 9
SECRET = b"a secret for tests, long enough"


def masks_of(number: int) -> NDArray[np.uint8]:
    """A white square that moves, (T, H, W); none in every third video."""
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t in range(FRAMES if number % 3 else 0):
        masks[t, 5 + number : 30, 4 * t : 4 * t + 20] = 255
    return masks


def read(source: Source, *, told: bool = True) -> Iterator[NDArray[np.uint8]]:
    """Frames that are bright where they were filled in, with a fourth channel that says where."""
    for mask in masks_of(int(source.id)):
        frame = np.dstack([mask // 2 + 40] * 3 + [mask])
        yield frame if told else frame[..., :3]


def corpus_of(out: Path, codec: Codec = "mjpeg", told: bool = True) -> Corpus:
    config = PackConfig(
        name=out.name,
        kind="no-human",
        classes=("a",),
        licence="",
        codec=codec,
        fps=6,
        short_side=HEIGHT,
        quality=90,
        samples_per_shard=4,
        secret=SECRET,
        removal={"tool": "a test"},
    )
    pack([Source(str(i), 0) for i in range(7)], partial(read, told=told), out, config, workers=0, progress=False)
    return Corpus.open(out)


def take(corpus: Corpus, places: int, steps: int = 5) -> list[Batch]:
    clip, views = Clip(4, 2, 32), Views(2, scale=(0.4, 1.0))
    with ClipLoader([LoaderSource(corpus)], clip, views, batch_size=6, seed=1, threads=2, places=places) as loader:
        return [next(loader) for _ in range(steps)]


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_batches_say_where_their_clips_were_filled_in(tmp_path: Path, codec: Codec) -> None:
    batches = take(corpus_of(tmp_path / "told", codec), 4)
    for batch in batches:
        assert batch.ok.all() and batch.holes is not None
        assert batch.holes.shape == (6, 4, 4, 4) and batch.holes.dtype == torch.uint8
        # The clips are bright where they were filled in; cells take in up to a cell more on every side.
        bright = batch.clips.float().mean(1).reshape(6, 4, 4, 8, 4, 8).mean((3, 5)) > 90
        assert (batch.holes[bright] > 100).all()
        assert batch.holes[~bright].float().mean() < batch.holes[bright].float().mean()
    assert any(not batch.holes[i].any() for batch in batches if batch.holes is not None for i in range(6))
    plain = take(corpus_of(tmp_path / "told", codec), 0)
    assert all(a.holes is None and torch.equal(a.clips, b.clips) for a, b in zip(plain, batches))


def test_a_corpus_that_does_not_say_counts_as_not_filled_in(tmp_path: Path) -> None:
    assert all(
        batch.holes is not None and not batch.holes.any() for batch in take(corpus_of(tmp_path / "x", told=False), 4)
    )


def test_the_record_is_in_the_json_that_others_read(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "told")
    assert not lint(tmp_path / "told", progress=False).findings
    for sample in WebDataset(str(corpus.shard_path(0)), shardshuffle=False):
        body = json.loads(sample["json"])
        assert body["removal"]["tool"] == "a test"
        cells = read_holes(sample["json"], FRAMES, WIDTH, HEIGHT)
        assert cells is not None and cells.shape == (FRAMES, 3, 5)


def test_a_damaged_record_spoils_its_sample_alone(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "told")
    offset, size = corpus.sidecars[0].tolist()
    path = corpus.shard_path(0)
    data = bytearray(path.read_bytes())
    place = data.index(b'"bits":"', offset, offset + size) + 20
    data[place] = ord("A") if data[place] != ord("A") else ord("B")
    path.write_bytes(data)
    assert any("filled in is damaged" in finding for finding in lint(tmp_path / "told", progress=False).findings)
    for batch in take(corpus, 4):
        assert batch.holes is not None
        bad = batch.ids == 0
        assert torch.equal(batch.ok, ~bad) and not batch.clips[bad].any() and not batch.holes[bad].any()


def rot(path: Path, corpus: Corpus, sample: int, found: bytes, put: bytes) -> None:
    """Write `put` over the first `found` in the JSON of `sample`, in the shard that lies at `path`."""
    offset, size = corpus.sidecars[sample].tolist()
    with path.open("r+b") as shard:
        shard.seek(offset)
        place = shard.read(size).index(found)
        shard.seek(offset + place)
        shard.write(put)


DAMAGES = {"a key": (b'"holes', b'"holfs'), "the json": (b"{", b"["), "the cells": (b'"bits":"eN', b'"bits":"AA')}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("sample", [0, 5])
def test_damage_anywhere_is_not_taken_for_nothing_to_say(tmp_path: Path, damage: str, sample: int) -> None:
    corpus = corpus_of(tmp_path / "told")
    rot(corpus.shard_path(int(corpus.shard[sample])), corpus, sample, *DAMAGES[damage])
    reader = ShardReader(corpus)
    for i in [*range(len(corpus)), sample]:
        cells, reason = reader.read_holes(i)
        assert (cells is None) == (i == sample)
        assert reason == (None if i != sample else "holes: missing" if damage == "a key" else "holes: damaged")
    assert reader.tells_holes()


def test_a_corpus_in_which_nothing_can_be_read_is_not_said_to_be_silent(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "told")
    for sample in range(len(corpus)):
        rot(corpus.shard_path(int(corpus.shard[sample])), corpus, sample, b"{", b"[")
    assert ShardReader(corpus).tells_holes()
    assert ShardReader(corpus).read_holes(3) == (None, "holes: damaged")


def test_a_silent_corpus_is_known_by_one_good_sample(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "silent", told=False)
    rot(corpus.shard_path(0), corpus, 0, b"{", b"[")
    reader = ShardReader(corpus)
    assert not reader.tells_holes()
    assert reader.read_holes(0) == reader.read_holes(1) == (None, None)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_rots_in_the_cache_is_fetched_again(tmp_path: Path, damage: str) -> None:
    local = corpus_of(tmp_path / "told")
    with FaultServer(tmp_path) as server:
        corpus = Corpus.open(f"{server.address}/told", Cache(tmp_path / "cache", 10**9))
        expected = [ShardReader(corpus).read_holes(i)[0] for i in range(len(corpus))]
        for sample in (0, 2):
            rot(tmp_path / "cache" / corpus.shard_blob(0).sha256, local, sample, *DAMAGES[damage])
        reader = ShardReader(corpus)
        for sample, right in enumerate(expected):
            cells, reason = reader.read_holes(sample)
            assert reason is None and cells is not None and right is not None and np.array_equal(cells, right)


def test_json_nested_too_deep_is_damage() -> None:
    with pytest.raises(ValueError, match="damaged"):
        read_holes(b"[" * 10**6, 1, 16, 16)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_records_are_read_as_written(frames: int, height: int, width: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((frames, height, width)) < 0.01
    cells = [holes_of(mask.astype(np.uint8)) for mask in masks]
    for grid, mask in zip(cells, masks):
        y, x = np.nonzero(mask)
        assert set(zip(*np.nonzero(grid))) == set(zip(y // CELL, x // CELL))
    text = json.dumps({"removal": {"holes": holes_record(cells)}}).encode()
    read = read_holes(text, frames, width, height)
    assert read is not None and np.array_equal(read, np.stack(cells))
    for wrong in ((frames + 8, width, height), (frames, width + CELL, height), (frames, width, height + CELL)):
        with pytest.raises(ValueError, match=r"damaged|of another"):
            read_holes(text, *wrong)


@given(st.binary(max_size=200))
def test_junk_is_refused_in_words(junk: bytes) -> None:
    text = json.dumps(
        {"removal": {"holes": {"cell": 16, "rows": 1, "columns": 1, "bits": junk.decode("latin-1")}}}
    ).encode()
    with pytest.raises(ValueError, match=r"damaged|of another"):
        read_holes(text, 10**5, 16, 16)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 49), st.integers(1, 27), st.booleans(), st.integers(1, 7))
def test_shares_are_those_of_the_pixels(x: int, y: int, w: int, h: int, flip: bool, places: int) -> None:
    cells = np.random.default_rng(x + 50 * y).random((2, 3, 5)) < 0.4
    fine = np.kron(cells, np.ones((CELL * places, CELL * places)))  # a pixel of a place is exact in these
    box = fine[:, y * places : (y + h) * places, x * places : (x + w) * places]
    expected = box.reshape(2, places, h, places, w).mean((2, 4))[..., :: -1 if flip else 1]
    shares = hole_shares(cells, np.array([[x, y, w, h]], np.int32), np.array([flip]), places)
    assert shares.shape == (1, 2, places, places)
    assert np.abs(shares[0] - 255 * expected).max() <= 1

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults import FaultServer  # pyright: ignore[reportMissingImports]

from understudy.loader import Clip, EvalLoader, EvalViews
from understudy.loader.evaluate import shards_at_once
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

CLIP = Clip(4, 2, 16)


def make(corpus: Corpus, batch_size: int, views: EvalViews = EvalViews(), rank: int = 0, world_size: int = 1):  # noqa: B008
    return EvalLoader(corpus, CLIP, views, batch_size, rank=rank, world_size=world_size, threads=2)


def test_one_small_shard_does_not_ask_for_a_larger_cache(build: Callable[..., Corpus], tmp_path: Path) -> None:
    local = build(tmp_path / "served" / "odd", [8] * 20 + [1], name="odd", frames=4)
    largest = max(shard.filesize for shard in local.manifest.shards)
    with FaultServer(tmp_path / "served") as server:
        corpus = Corpus.open(f"{server.address}/odd", Cache(tmp_path / "cache", 12 * largest))
        loader = EvalLoader(corpus, CLIP, EvalViews(), batch_size=8, threads=1)
        seen = torch.cat([batch.ids[batch.ok] for batch in loader])
    assert seen.tolist() == list(range(161))


@pytest.mark.parametrize(
    ("nsamples", "samples", "shards"),
    [
        ([8, 8, 8, 1], 1, 1),
        ([8, 8, 8, 1], 2, 2),
        ([8, 8, 8, 1], 9, 2),
        ([8, 8, 8, 1], 10, 3),  # the last of one, eight of the next, one more
        ([1, 1, 1, 8, 8], 4, 4),
        ([8, 8], 100, 2),
        ([3], 1, 1),
        ([], 5, 1),
    ],
)
def test_shards_that_so_many_samples_lie_in(nsamples: list[int], samples: int, shards: int) -> None:
    assert shards_at_once(nsamples, samples) == shards


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("per_rank", [1, 6, 50])
def test_every_sample_once_over_ranks_and_equally_many_batches(corpus: Corpus, world_size: int, per_rank: int) -> None:
    clips: dict[int, torch.Tensor] = {}
    lengths = set()
    for rank in range(world_size):
        loader = make(corpus, per_rank * world_size, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        lengths.add(len(batches))
        for batch in batches:
            assert batch.clips.shape == (per_rank, 3, 4, 16, 16)
            padding = batch.ids == -1
            assert torch.equal(batch.ok, ~padding)
            assert (batch.labels[padding] == -1).all()
            assert not batch.clips[padding].any()
            assert torch.equal(batch.labels[~padding], batch.ids[~padding] % 3)
            for sample, clip in zip(batch.ids[~padding].tolist(), batch.clips[~padding]):
                assert sample not in clips
                clips[sample] = clip
        assert loader.skipped == {}
    assert len(lengths) == 1
    assert sorted(clips) == list(range(50))
    for batch in make(corpus, 50):
        for sample, clip in zip(batch.ids.tolist(), batch.clips):
            assert torch.equal(clips[sample], clip), "the clip does not depend on ranks or batch size"


def test_views_lie_clip_by_clip_in_a_samples_rows(corpus: Corpus) -> None:
    views = EvalViews(clips=2, crops=3)
    for batch in make(corpus, 12, views):
        assert batch.clips.shape == (12, 3, 4, 16, 16)
        assert torch.equal(batch.ids, batch.ids[::6].repeat_interleave(6))
        frames = (batch.clips[:, 0].float().mean(dim=(2, 3)) / 10).round().long()
        for row in torch.arange(12)[batch.ok].tolist():
            expected = [0, 2, 4, 6] if row % 6 < 3 else [5, 7, 9, 11]
            assert frames[row].tolist() == expected


def test_a_bad_sample_is_told_from_padding(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "bad", [6, 5], payload=lambda i: {"mjpg": b"x", "off": bytes(16)} if i == 4 else None)
    loader = make(corpus, 8)
    first = list(loader)
    ids, ok = torch.cat([b.ids for b in first]), torch.cat([b.ok for b in first])
    assert ids.tolist() == [*range(11), *[-1] * 5]
    assert ok.tolist() == [i != 4 for i in range(11)] + [False] * 5
    assert torch.cat([b.labels for b in first])[4] == 4 % 3
    assert loader.skipped == {("tiny", "offsets: do not fit the frames"): 1}


def test_passes_repeat_and_may_be_left_early(corpus: Corpus) -> None:
    loader = make(corpus, 8)
    for _ in loader:
        break
    first, second = list(loader), list(loader)
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(first, second, strict=True))


def test_a_batch_size_that_does_not_divide_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="batch size 8 does not divide into 6 views on 1 ranks; choose a multiple of 6"):
        make(corpus, 8, EvalViews(2, 3))

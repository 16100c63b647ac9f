from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.loader.memory import ALIGNMENT, Memory
from understudy.shards.corpus import Corpus


def address(array: np.ndarray) -> int:
    return array.ctypes.data


# What may be made of an array, each in place of the array itself.
MADE = {
    "the array": lambda array: array,
    "a slice": lambda array: array[10:20],
    "a slice of another shape": lambda array: array.reshape(10, 10)[2:4],
    "another type": lambda array: array.view(np.uint32)[1:],
    "its bytes": lambda array: array.data[5:].toreadonly(),
    "an array of its bytes": lambda array: np.frombuffer(array.data.toreadonly()[5:], np.uint8),
    "a tensor": lambda array: torch.from_numpy(array.reshape(10, 10)),
    "a view of a tensor": lambda array: torch.from_numpy(array.reshape(10, 10)).flatten()[3:],
    "an array of a tensor": lambda array: torch.from_numpy(array.reshape(10, 10)).numpy()[1],
    "a tensor through dlpack": lambda array: torch.utils.dlpack.from_dlpack(torch.from_numpy(array)),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_memory_is_given_out_again_when_nothing_refers_to_it_and_no_sooner(make) -> None:
    memory = Memory(spare=4)
    first = memory.take(100)
    where = address(first)
    made = make(first)
    del first
    gc.collect()
    assert address(memory.take(100)) != where, "it is still in use"
    del made
    gc.collect()
    seen = [memory.take(100) for _ in range(3)]
    assert where in [address(array) for array in seen]


def test_blocks_grow_and_are_aligned() -> None:
    memory = Memory(spare=1)
    for size in (1, 10, 5000, 7, 300_000, 0):
        array = memory.take(size)
        assert array.shape == (size,)
        assert array.dtype == np.uint8
        assert not size or address(array) % ALIGNMENT == 0
        array[:] = 1


def test_only_so_much_is_kept() -> None:
    memory = Memory(spare=2)
    held = [memory.take(1000) for _ in range(10)]
    del held
    gc.collect()
    assert len(memory._free) == 2


def test_batches_that_the_caller_keeps_do_not_change(corpus: Corpus) -> None:
    made = ClipLoader([LoaderSource(corpus)], Clip(4, 2, 16), Views(2), 16, seed=3, threads=2)
    with made:
        kept = [next(made).clips for _ in range(12)]
        parts = [next(made).clips[3] for _ in range(12)]
        before = [clips.clone() for clips in kept + parts]
        for _ in range(20):
            next(made)
        for clips, copy in zip(kept + parts, before):
            assert torch.equal(clips, copy)
    with ClipLoader([LoaderSource(corpus)], Clip(4, 2, 16), Views(2), 16, seed=3, threads=2) as again:
        for clips in kept:
            assert torch.equal(next(again).clips, clips)

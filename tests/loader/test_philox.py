"""Random numbers by counter: those that NumPy's Philox has promised, from any place on, in any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from understudy.loader.philox import raw, stream_key, uniform

words = st.integers(0, 2**64 - 1)


@given(st.integers(0, 2**128 - 1), st.tuples(words, words, words), st.integers(0, 70))
def test_words_are_those_of_a_philox_made_for_them(key: int, counter: tuple[int, int, int], n: int) -> None:
    made = np.random.Philox(key=key, counter=[0, *counter]).random_raw(n)  # pyright: ignore[reportArgumentType]
    assert raw(key, counter, n).tolist() == made.tolist()


@given(st.integers(0, 100), st.integers(0, 20))
def test_a_part_is_found_alone(start: int, n: int) -> None:
    key = stream_key("a part")
    assert raw(key, (1, 2, 3), n, start).tolist() == raw(key, (1, 2, 3), start + n)[start:].tolist()
    assert uniform(key, (1, 2, 3), n, start).tolist() == uniform(key, (1, 2, 3), start + n)[start:].tolist()


def test_threads_do_not_disturb_each_other() -> None:
    keys = [stream_key("thread", i) for i in range(8)]
    alone = [raw(key, (0, 0, 0), 1000).tolist() for key in keys]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert [words.tolist() for words in pool.map(lambda key: raw(key, (0, 0, 0), 1000), keys)] == alone

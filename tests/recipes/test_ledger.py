"""The ledger's sequence digest, and what it says of corpora that change under a run."""

from __future__ import annotations

import torch

from understudy.recipes.ledger import Ledger


def recorded(*batches: tuple[str, list[int]]) -> Ledger:
    ledger = Ledger()
    for source, ids in batches:
        ledger.record(source, torch.tensor(ids))
    return ledger


def test_the_digest_is_of_sources_samples_and_their_order() -> None:
    ledger = recorded(("a", [1, 2]), ("b", [3, 4]))
    assert ledger.seen == {"a": 2, "b": 2}
    assert ledger.digest == recorded(("a", [1, 2]), ("b", [3, 4])).digest
    others = [
        recorded(("a", [2, 1]), ("b", [3, 4])),
        recorded(("b", [3, 4]), ("a", [1, 2])),
        recorded(("a", [1, 2]), ("a", [3, 4])),
        recorded(("a", [1, 2, 3]), ("b", [4])),
        recorded(("a", [1, 2])),
    ]
    assert len({ledger.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_a_corpus_that_is_replaced_stays_on_record() -> None:
    old, new, same = ({"kind": "no-human", "licence": "", "samples": 5, "digest": d} for d in ("old", "new", "same"))
    ledger = Ledger(corpora={"a": old, "b": same}, steps=40)
    ledger.go_on_with({"a": old, "b": same})
    assert ledger.replaced == []
    ledger.go_on_with({"a": new, "b": same})
    assert ledger.corpora == {"a": new, "b": same}
    assert ledger.replaced == [{"source": "a", "until": 40, **old}]

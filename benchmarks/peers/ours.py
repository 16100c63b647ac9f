"""Understudy's loader, as a training script uses it."""

from __future__ import annotations

from collections.abc import Iterator

from peers.batches import Loaded, Visits
from spec import CLIP, SEED, Spec

from understudy.loader import ClipLoader, LoaderSource, Views
from understudy.shards.corpus import Corpus


def run(spec: Spec) -> Iterator[Loaded]:
    visits = Visits()
    with ClipLoader(
        [LoaderSource(Corpus.open(spec.corpus))],
        CLIP,
        Views(count=spec.views, flip=False),
        batch_size=spec.videos * spec.views,
        seed=SEED,
        decoder=spec.options["decoder"],
        threads=spec.threads,
    ) as loader:
        for batch in loader:
            if not bool(batch.ok.all()):
                raise RuntimeError(f"samples were skipped: {loader.skipped}")
            yield Loaded(batch.clips, [(i, visits.next(i)) for i in batch.ids[:: spec.views].tolist()])

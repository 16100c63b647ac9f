"""Which weights took part in a removal, so that no detector with the same ones audits what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from understudy.privacy.detect import Detector
from understudy.privacy.removal_record import RECORD, models_of
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import read_address
from understudy.shards.remote import Address, MissingError
from understudy.shards.tarshard import read_entries, read_spans


def check_independent(detectors: Sequence[Detector], used: Iterable[str]) -> None:
    """Raise UserError where a detector has weights in common with the removal, as it would see what that saw."""
    removed_with = set(used)
    for detector in detectors:
        shared = removed_with & set(detector.models)
        if shared:
            raise UserError(
                f"detector {detector.name}: its weights ({', '.join(sorted(shared))}) took part in the removal, "
                "so it is blind to what that missed; name others with --detectors"
            )


def removal_weights(root: Address, corpus: Corpus | None) -> set[str]:
    """Names of the weights that had a say in the removal, segmenter and gate: the list `models` of the removal
    record, which is in `removal.json` beside videos and in every KEY.json of a corpus.
    """
    used: set[str] = set()
    with suppress(FileNotFoundError, MissingError):
        text = read_address(root / RECORD)
        try:
            used.update(models_of(json.loads(text)["removal"]))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError(
                f"{root / RECORD}: not as remove-people writes it, so nobody knows which weights took part; "
                "remove people again, or move it away"
            ) from None
    if corpus is None:
        return used
    for number in range(len(corpus.manifest.shards)):
        with os.fdopen(corpus.open_shard(number), "rb") as file:
            try:
                sidecars = [entry for entry in read_entries(file) if entry.extension == "json"]
            except ValueError as error:
                place = root / corpus.manifest.shards[number].url
                raise UserError(f"{place}: no shard of ours ({error}); run: understudy lint {root}") from None
            for text in read_spans(file, [(entry.offset, entry.size) for entry in sidecars]):
                with suppress(ValueError, AttributeError, RecursionError):  # check_shards.py tells of it
                    used.update(models_of(json.loads(text).get("removal")))
    return used

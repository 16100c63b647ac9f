"""What a stage was trained on: the samples seen of each corpus, those skipped and why, and a digest of their sequence.

It is the same on any number of ranks and with any number of restarts, so that two runs can be compared by it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from understudy.loader import Batch
from understudy.shards.corpus import Corpus


@dataclass
class Ledger:
    """`digest` is a rolling SHA-256 over every batch's source and sample ids, in order; `seen` counts samples by
    source, and `skipped`, by source and reason, those of them that could not be used. `corpora` says of each source
    what kind of data it is (`kind`, `licence`, `samples`) and which (`digest`); `replaced` lists those that were
    trained on before, each with its source and the step `until` which it was.
    """

    corpora: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    steps: int = 0
    digest: str = ""
    seen: dict[str, int] = field(default_factory=dict[str, int])
    skipped: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    replaced: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def record(self, source: str, ids: Tensor) -> None:
        """Take note of one batch over all ranks: int64 (n,) sample ids."""
        data = ids.numpy().astype("<i8").tobytes()
        self.digest = hashlib.sha256(f"{self.digest} {source} ".encode() + data).hexdigest()
        self.seen[source] = self.seen.get(source, 0) + len(ids)

    def go_on_with(self, corpora: dict[str, dict[str, Any]]) -> None:
        """Take note of the corpora from here on, where they are not those until now."""
        for name, about in self.corpora.items():
            if corpora.get(name) != about:
                self.replaced.append({"source": name, "until": self.steps, **about})
        self.corpora = corpora


def describe(corpora: Sequence[Corpus]) -> dict[str, dict[str, Any]]:
    """The ledger's `corpora`."""
    return {
        c.manifest.name: {
            "kind": c.manifest.kind,
            "licence": c.manifest.licence,
            "samples": c.manifest.nsamples,
            "digest": c.manifest.digest,
        }
        for c in corpora
    }


def global_ids(accelerator: Accelerator, batches: Sequence[Batch], views: int) -> Tensor:
    """Sample ids of equal batches over all ranks, int64 (batches, samples), from this rank's. Call on all ranks."""
    mine = torch.stack([batch.ids[::views] for batch in batches])
    everyone = cast(Tensor, accelerator.gather(mine))
    return everyone.view(accelerator.num_processes, *mine.shape).transpose(0, 1).flatten(1).cpu()


def add_skipped(before: dict[str, dict[str, int]], here: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Skipped samples by source and reason: those before, and what all ranks count now. Call on all ranks."""
    counts = Counter({(source, reason): n for source, reasons in before.items() for reason, n in reasons.items()})
    for rank in cast("list[dict[tuple[str, str], int]]", gather_object([here])):
        counts.update(rank)
    total: dict[str, Any] = {}
    for (source, reason), count in sorted(counts.items()):
        total.setdefault(source, {})[reason] = count
    return total

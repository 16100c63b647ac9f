"""The log of a run, `metrics.jsonl`: written line by line, and cut back where a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.shards.files import write_atomic


def top1(sources: Sequence[str], answers: Tensor) -> dict[str, Any]:
    """What a row says of accuracy in training, over all batches and by source: `answers` (batches, 2) are right ones,
    and of how many. A source of which no row could be used is left out.
    """
    by_source: dict[str, Tensor] = {}
    for source, counts in zip(sources, answers.double().cpu()):
        by_source[source] = by_source.get(source, torch.zeros(2)) + counts
    right, count = answers.double().sum(dim=0).tolist()
    shares = {source: float(r / n) for source, (r, n) in sorted(by_source.items()) if n}
    return {"top1": right / count, "top1_of": shares} if count else {}


class MetricsLog:
    """`metrics.jsonl`: one object a log line. Rows that a resumed stage will write again are dropped first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage: str, step: int) -> None:
        """Forget rows of `stage` after `step`, and a last line that a kill left half-written."""
        kept: list[str] = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["stage"] != stage or row["step"] <= step:
                kept.append(line + "\n")
        write_atomic(self.path, "".join(kept).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

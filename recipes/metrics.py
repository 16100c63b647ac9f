"""The log of a run, `metrics.jsonl`: written line by line, and cut back where a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from understudy.shards.files import write_atomic


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

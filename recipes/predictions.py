"""What transfer leaves beside its table: the results of every command, and what each video was called."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from understudy.recipes.outcome import Outcome
from understudy.shards.corpus import Corpus
from understudy.shards.files import write_atomic

BEST = ("prediction", "second", "third", "fourth", "fifth")


def write_results(out: Path, results: dict[str, Any]) -> None:
    """`results.json`, which is the last command's, and `results/ID.json`, which a command of other settings leaves
    alone: ID is of the settings, and of the weights and corpora that they stood for.
    """
    text = (json.dumps(results, indent=1) + "\n").encode()
    (out / "results").mkdir(parents=True, exist_ok=True)
    write_atomic(out / "results" / f"{_digest([results[key] for key in ('config', 'weights', 'corpora')])}.json", text)
    write_atomic(out / "results.json", text)


def write_predictions(out: Path, row: dict[str, Any], outcome: Outcome, val: Corpus) -> str:
    """A line for each video and seed in a CSV file below `out`: its label and the classes called, best first; none
    where it could not be decoded. Excluded videos have lines too. Returns the path relative to `out`.
    """
    names, text = val.manifest.classes, io.StringIO()
    best = outcome.logits.topk(min(len(BEST), outcome.logits.shape[2]), dim=2).indices
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["key", "seed", "label", *BEST[: best.shape[2]]])
    for seed, called in enumerate(best.tolist()):
        for video, key in enumerate(val.keys):
            words = [names[label] for label in called[video]] if outcome.ok[video] else [""] * best.shape[2]
            lines.writerow([key, seed, names[val.label[video]], *words])
    file = Path("predictions") / f"{outcome.protocol}-{outcome.task}-{_digest(row['scores'])}.csv"
    (out / file.parent).mkdir(parents=True, exist_ok=True)
    write_atomic(out / file, text.getvalue().encode())
    return str(file)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]

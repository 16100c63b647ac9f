"""What is known of how weights came about: the ledgers of all stages that they went through, and what is not known.

A stage of a run tells it by its own ledger and the folders beside it; what else is made of weights keeps it in ORIGIN.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.recipes.checkpoint import STATE
from understudy.recipes.train import LEDGER, REPORT
from understudy.shards.files import write_atomic

START = "start.json"  # in a run that began with an encoder from elsewhere: which, and its provenance
ORIGIN = "origin.json"  # in a folder with weights that were made of others: the provenance of these


@dataclass(frozen=True)
class Provenance:
    """`trained_on` are ledgers and speeds of training stages, oldest first. `unknown` names weights that it all began
    with, of whose training nothing is known.
    """

    trained_on: tuple[dict[str, Any], ...] = ()
    unknown: tuple[str, ...] = ()

    def corpora(self) -> Iterable[dict[str, Any]]:
        """What ledgers say of each corpus (kind, licence, samples, digest), those that were replaced included."""
        for stage in self.trained_on:
            yield from stage["corpora"].values()
            yield from stage.get("replaced", [])


def provenance_of(checkpoint: Path) -> Provenance:
    """Of a stage of a run or one of its checkpoints, of a folder with an ORIGIN, or, where that is none of these, of
    unknown weights.
    """
    found = checkpoint.resolve()
    folder = found if found.is_dir() else found.parent
    if (folder / ORIGIN).is_file():
        before = _read(folder / ORIGIN)
        return _after(before, folder.name, folder) if (folder / LEDGER).is_file() else before
    if (folder / STATE).is_file():
        ledger = json.loads((folder / STATE).read_text())["ledger"]
        stage = folder.parent
        return _joined(_before(stage), Provenance(({"stage": stage.name, **ledger},)))
    if (folder / LEDGER).is_file():
        return _after(_before(folder), folder.name, folder)
    return Provenance(unknown=(str(checkpoint),))


def write_origin(folder: Path, about: Iterable[Mapping[str, Any]]) -> None:
    """Keep in `folder` where its weights come from: of what has `trained_on` and `unknown`, as a Model's `about`."""
    folder.mkdir(parents=True, exist_ok=True)
    origin = {key: [entry for one in about for entry in one[key]] for key in ("trained_on", "unknown")}
    write_atomic(folder / ORIGIN, (json.dumps(origin, indent=1) + "\n").encode())


def _before(stage: Path) -> Provenance:
    """Of what a stage of a run began with: a run keeps its stages side by side, and START where it began elsewhere."""
    if stage.name != "stage2":
        return Provenance()
    began, first = stage.with_name(START), stage.with_name("stage1")
    known = _read(began) if began.is_file() else Provenance()
    return _after(known, first.name, first) if (first / LEDGER).is_file() else known


def _after(before: Provenance, name: str, folder: Path) -> Provenance:
    """`before`, and then the stage whose ledger lies in `folder`, with its speeds if it has finished."""
    stage: dict[str, Any] = {"stage": name, **json.loads((folder / LEDGER).read_text())}
    if (folder / REPORT).is_file():
        report: dict[str, Any] = json.loads((folder / REPORT).read_text())
        seconds = report["seconds"]
        stage |= {"samples_per_second": report["samples"] / seconds if seconds else None}
        stage |= {"data_share": report["data_seconds"] / seconds if seconds else None}
    return _joined(before, Provenance((stage,)))


def _joined(first: Provenance, second: Provenance) -> Provenance:
    return Provenance((*first.trained_on, *second.trained_on), (*first.unknown, *second.unknown))


def _read(file: Path) -> Provenance:
    told: dict[str, Any] = json.loads(file.read_text())
    return Provenance(tuple(told["trained_on"]), tuple(told["unknown"]))

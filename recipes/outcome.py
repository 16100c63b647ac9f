"""What came of a model on a task under a protocol: rows of `results.json` with intervals, and differences of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.models.stats import accuracy_interval, class_mean, paired_difference
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """Class scores float32 (seeds, videos, classes) of all validation videos, and `ok` (videos,): those that could not
    be decoded count as wrong. `about` goes into the row as it is.
    """

    model: str
    task: str
    protocol: str
    logits: Tensor
    ok: Tensor
    about: dict[str, Any]


def rows_of(outcomes: Sequence[Outcome], val: Corpus, excluded: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each outcome on one corpus; videos with a key among `excluded` don't count.

    Accuracies are shares of videos (micro), averaged over seeds; `low` and `high` are their 95 % interval, `groups` the
    number of groups of videos that it rests on, and `seeds_top1` what each seed got. `class_mean` averages the classes'
    own shares.
    """
    counted = _counted(val, excluded)
    labels, groups = torch.from_numpy(val.label), val.group[counted.numpy()]
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        right = _right(outcome, labels)[:, counted].double()
        top5 = outcome.logits.topk(min(5, outcome.logits.shape[2]), dim=2).indices == labels[:, None]
        correct = right.mean(dim=0).numpy()
        low, high = accuracy_interval(correct, groups)
        failed = [val.keys[i] for i in counted.tolist() if not outcome.ok[i]]
        rows.append(
            {
                "model": outcome.model,
                "task": outcome.task,
                "protocol": outcome.protocol,
                "top1": float(correct.mean()),
                "low": low,
                "high": high,
                "top5": float((top5.any(dim=2) & outcome.ok)[:, counted].double().mean()),
                "class_mean": class_mean(correct, labels[counted].numpy()),
                "seeds": len(right),
                "seeds_top1": right.mean(dim=1).tolist(),
                "videos": len(correct),
                "groups": len(set(groups.tolist())),
                "classes": outcome.logits.shape[2],
                "failed": failed,
                "excluded": sorted(set(excluded) & set(val.keys)),
                **outcome.about,
            }
        )
    return rows


def differences_of(outcomes: Sequence[Outcome], val: Corpus, excluded: Sequence[str]) -> list[dict[str, Any]]:
    """Each model less the first one of the same protocol, over the same videos: mean and paired bootstrap interval, in
    which videos of one group, where the corpus knows of groups, are drawn together.
    """
    counted = _counted(val, excluded)
    labels, groups = torch.from_numpy(val.label), val.group[counted.numpy()]
    first: dict[str, Outcome] = {}
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        baseline = first.setdefault(outcome.protocol, outcome)
        if baseline is outcome:
            continue
        ours, theirs = (_right(o, labels)[:, counted].double().mean(dim=0).numpy() for o in (outcome, baseline))
        mean, low, high = paired_difference(ours, theirs, groups)
        named = {"model": outcome.model, "minus": baseline.model, "task": outcome.task, "protocol": outcome.protocol}
        rows.append({**named, "difference": mean, "low": low, "high": high, "groups": len(set(groups.tolist()))})
    return rows


def _right(outcome: Outcome, labels: Tensor) -> Tensor:
    return (outcome.logits.argmax(dim=2) == labels) & outcome.ok


def _counted(val: Corpus, excluded: Sequence[str]) -> Tensor:
    """Numbers of the videos that count."""
    return torch.tensor([i for i, key in enumerate(val.keys) if key not in set(excluded)], dtype=torch.int64)


def check_excluded(excluded: Sequence[str], vals: Sequence[Corpus]) -> None:
    """Raise UserError where a key to exclude is of no validation sample."""
    known = {key for val in vals for key in val.keys}
    unknown = [key for key in excluded if key not in known]
    if unknown:
        raise UserError(f"--exclude {' '.join(unknown)}: no validation sample has such a key")

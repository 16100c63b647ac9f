"""Probes on cached features: a rate chosen on a held-out part of the training set, then the probe of all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from understudy.models.attentive import AttentiveConfig, attentive_probes
from understudy.models.probe import ProbeConfig, group_split, linear_probes
from understudy.recipes.checkpoint import save_tensors
from understudy.recipes.features import Features
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

# (rows to train on, features and rows to score, rates) to logits (rates, seeds, rows, classes)
Fit = Callable[[Tensor, Tensor, Tensor, tuple[float, ...]], Tensor]


@dataclass(frozen=True)
class Scores:
    """Class scores of every validation video, float32 (seeds, videos, classes), the views' logits averaged; `rate` is
    the learning rate they were got with, `tuning` what each rate got on the held-out part of the training set, and
    `seconds` what all that took.
    """

    logits: Tensor
    rate: float
    tuning: dict[str, float]
    seconds: float


def kept_scores(file: Path, write: bool, make: Callable[[], Scores]) -> Scores:
    """The scores that lie in a safetensors file; where there is none, what `make` gives, kept there with `write`."""
    if file.exists():
        try:
            with safe_open(file, "pt") as opened:
                return Scores(opened.get_tensor("logits"), **json.loads(opened.metadata()["about"]))
        except SafetensorError as error:
            raise UserError(f"{file}: can't be read ({error}); delete it, and it is made anew") from None
    scores = make()
    if write:
        about = {"rate": scores.rate, "tuning": scores.tuning, "seconds": scores.seconds}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, {"logits": scores.logits}, {"about": json.dumps(about)})
    return scores


def probe_linearly(train: Features, val: Features, corpus: Corpus, config: ProbeConfig, device: torch.device) -> Scores:
    """Linear probes of pooled features: every view of a training video is a row."""
    x, labels = train.values.flatten(0, 1).to(device), view_labels(train, corpus).to(device)
    classes = len(corpus.manifest.classes)

    def fit(rows: Tensor, held_out: Tensor, held_out_rows: Tensor, rates: tuple[float, ...]) -> Tensor:
        rows, scored = rows.to(device), held_out.to(device)[held_out_rows.to(device)]
        return linear_probes(x[rows], labels[rows], scored, classes, config, rates).cpu()

    return _tuned(fit, train, val, corpus, config.rates)


def probe_attentively(
    train: Features, val: Features, corpus: Corpus, config: AttentiveConfig, device: torch.device
) -> Scores:
    """Attentive probes of all tokens, which stay on the disk but for the batch at hand."""
    tokens, labels = train.values.flatten(0, 1), view_labels(train, corpus)
    classes = len(corpus.manifest.classes)

    def fit(rows: Tensor, held_out: Tensor, held_out_rows: Tensor, rates: tuple[float, ...]) -> Tensor:
        return attentive_probes(tokens, labels, rows, held_out, held_out_rows, classes, config, rates, device).cpu()

    return _tuned(fit, train, val, corpus, config.rates)


def view_labels(features: Features, corpus: Corpus) -> Tensor:
    """The label of every view of every video, int64 (videos * views,)."""
    return torch.from_numpy(corpus.label).repeat_interleave(features.values.shape[1])


def _tuned(fit: Fit, train: Features, val: Features, corpus: Corpus, rates: tuple[float, ...]) -> Scores:
    """Choose among `rates` by the held-out groups of the training set, then train on all of it and score `val`.

    Videos that can't be decoded are left out of training. Raises UserError where none is left.
    """
    if not train.ok.any():
        raise UserError(f"{corpus.root}: no sample can be decoded; run `understudy lint {corpus.root}`")
    started = time.perf_counter()
    usable = train.ok.nonzero().flatten()
    views, tuning, best = train.values.shape[1], dict[str, float](), rates[0]
    if len(rates) > 1:
        try:
            held = torch.from_numpy(group_split(corpus.label[usable.numpy()], corpus.group[usable.numpy()]))
        except ValueError as error:
            raise UserError(f"{corpus.root}: {error}") from None
        flat, apart = train.values.flatten(0, 1), usable[held]
        logits = fit(_view_rows(usable[~held], views), flat, _view_rows(apart, views), rates)
        averaged = logits.unflatten(2, (-1, views)).mean(dim=3)
        right = averaged.argmax(dim=3) == torch.from_numpy(corpus.label)[apart]
        accuracy = right.double().mean(dim=(1, 2)).tolist()
        tuning = {f"{rate:g}": share for rate, share in zip(rates, accuracy)}
        best = rates[int(np.argmax(accuracy))]
    everything = torch.arange(val.values.shape[0] * val.values.shape[1])
    logits = fit(_view_rows(usable, views), val.values.flatten(0, 1), everything, (best,))[0]
    averaged = logits.unflatten(1, (-1, val.values.shape[1])).mean(dim=2)
    return Scores(averaged, best, tuning, time.perf_counter() - started)


def _view_rows(videos: Tensor, views: int) -> Tensor:
    """Rows of all views of some videos, where the views of a video follow each other."""
    return (videos[:, None] * views + torch.arange(views)).flatten()

"""Probes on cached features: a rate chosen on a held-out part of the training set, then the probe of all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.models.attentive import AttentiveConfig, attentive_probes
from understudy.models.probe import ProbeConfig, group_split, linear_probes
from understudy.recipes.features import Features
from understudy.shards.errors import UserError
from understudy.shards.manifest import Corpus

# (rows to train on, features and rows to score, rates) to logits (rates, seeds, rows, classes)
Fit = Callable[[Tensor, Tensor, Tensor, tuple[float, ...]], Tensor]


@dataclass(frozen=True)
class Scores:
    """Class scores of every validation video, float32 (seeds, videos, classes), the views' logits averaged; `rate` is
    the learning rate they were got with, `tuning` what each rate got on the held-out part of the training set.
    """

    logits: Tensor
    rate: float
    tuning: dict[str, float]


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
    return Scores(logits.unflatten(1, (-1, val.values.shape[1])).mean(dim=2), best, tuning)


def _view_rows(videos: Tensor, views: int) -> Tensor:
    """Rows of all views of some videos, where the views of a video follow each other."""
    return (videos[:, None] * views + torch.arange(views)).flatten()

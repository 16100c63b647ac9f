"""Schedules, parameter groups, intervals and the probe, against independent computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.models.align import Aligner
from understudy.models.optim import layer_of, learning_rate, parameter_groups
from understudy.models.stats import paired_difference, wilson
from understudy.models.vit import BASE, ViTConfig


def test_rate_warms_up_then_falls_without_a_jump() -> None:
    rates = [learning_rate(step, 1000, 8e-4, 50) for step in range(1000)]
    assert rates[0] == 1e-6
    assert rates[25] == pytest.approx(1e-6 + (8e-4 - 1e-6) / 2)
    assert rates[50] == 8e-4 == max(rates)
    assert rates[525] == pytest.approx(4e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[50:]))
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 2e-5
    assert rates[-1] < 1e-8


def test_layer_decay_has_the_papers_multipliers() -> None:
    with torch.device("meta"):
        model = Aligner(BASE, {"a": 150})
    names = dict(model.named_parameters())
    scale = {
        id(p): group["lr_scale"]
        for group in parameter_groups(model, weight_decay=1e-4, layer_decay=0.75, depth=12)
        for p in group["params"]
    }
    assert len(scale) == len(names)
    for name, parameter in names.items():
        power = {0: 14, 13: 1}.get(layer_of(name, 12), 13 - (layer_of(name, 12) - 1))
        assert scale[id(parameter)] == pytest.approx(0.75**power), name
    assert scale[id(names["encoder.blocks.11.attn.qkv.weight"])] == pytest.approx(0.5625)
    assert scale[id(names["encoder.norm.weight"])] == scale[id(names["heads.a.weight"])] == 0.75


def test_vectors_do_not_decay() -> None:
    model = Aligner(ViTConfig(frames=2, size=16, patch=16, width=32, depth=1, heads=1), {"a": 3})
    for group in parameter_groups(model, weight_decay=0.05):
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0)


@given(trials=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_solves_its_equation(trials: int, share: float) -> None:
    p = round(share * trials) / trials
    z = 1.959964
    for end in wilson(round(share * trials), trials):
        if 1e-9 < end < 1 - 1e-9:  # Wilson's bounds are where the score statistic equals z
            assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / trials), rel=1e-6, abs=1e-9)


def test_wilson_at_a_known_point() -> None:
    low, high = wilson(8, 10)  # 0.4902-0.9433 in published tables
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


def test_paired_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hard = rng.random(150)
        a, b = (hard < 0.7).astype(float), (hard < 0.6).astype(float)
        mean, low, high = paired_difference(a, b, draws=500, seed=trial)
        assert low <= mean <= high
        covered += low <= 0.1 <= high
    assert 170 <= covered <= 200

"""Fine-tuning's numbers against those of PPMA's released code, at every step."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from understudy.models.average import AdaptiveAverage
from understudy.models.classify import VideoClassifier
from understudy.models.optim import Halved, parameter_groups
from understudy.models.vit import DEMO, VideoViT
from understudy.recipes.configs import ppma
from understudy.recipes.finetune import (
    AverageClassifier,
    AverageConfig,
    FinetuneConfig,
    online_probe,
)
from understudy.recipes.transfer import command_line

UCF101 = 9_537  # training videos of split 1


@pytest.mark.parametrize(
    ("halved", "top", "first"), [("no", 2e-3, 2e-3), ("whole", 1e-3, 0.9619e-3), ("rest", 1e-3, 1e-3)]
)
def test_rates_on_ucf101_at_every_step(halved: Halved, top: float, first: float) -> None:
    stage = replace(FinetuneConfig(), halved=halved).stage(UCF101)
    assert (stage.steps, stage.warmup) == (8_941, 1_118)  # 30 and 3.75 epochs of 298.03 batches of 32
    step = np.arange(8_941)
    rising = np.interp(step, [0, 1_118], [5e-7, 2e-3])
    turn = step / 8_941 if halved == "whole" else (step - 1_118) / (8_941 - 1_118)
    # cos^2 in place of (1 + cos) / 2
    falling = 5e-7 + (top - 5e-7) * np.cos(np.pi * turn / 2) ** 2
    expected = np.where(step < 1_118, rising, falling)
    np.testing.assert_allclose([stage.rate_at(int(i)) for i in step], expected, rtol=1e-9)
    assert stage.rate_at(0) == 5e-7
    assert stage.rate_at(8_940) == pytest.approx(5e-7, rel=1e-3)
    assert stage.rate_at(1_118) == pytest.approx(first, rel=1e-4)


def test_the_defaults_are_the_papers() -> None:
    config, paper = FinetuneConfig(), ppma().stage2
    stage = config.stage(UCF101)
    # Stage 2 and fine-tuning share all but their length, batch and corpora.
    same = ("rate", "start", "end", "halved", "weight_decay", "betas", "layer_decay", "crop_scale", "flip")
    assert {name: asdict(stage)[name] for name in same} == {name: asdict(paper)[name] for name in same}
    assert stage.augment == replace(paper.augment, group=8)  # a process has half as many clips
    assert (stage.batch_size, stage.views, config.drop_path, config.smoothing) == (32, 1, 0.1, 0.1)


def test_the_online_probes_rates_are_the_papers() -> None:
    stage = online_probe().stage(UCF101)
    assert (stage.steps, stage.warmup, stage.batch_size) == (8_941, 1_118, 32)
    assert [stage.rate_at(step) for step in (0, 1_118)] == [4e-6, 1.6e-2]
    assert stage.rate_at(8_940) == pytest.approx(4e-6, rel=1e-3)
    model = VideoClassifier(DEMO, 5)
    model.encoder.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=stage.weight_decay, layer_decay=stage.layer_decay, depth=DEMO.depth)
    assert [group["lr_scale"] for group in groups] == [0.75, 0.75]  # 1.2e-2 at most, for weights and for biases
    assert (online_probe().augment, online_probe().smoothing) == (FinetuneConfig().augment, 0.1)


def test_the_averages_rates_are_the_papers() -> None:
    config, tuned = AverageConfig(), FinetuneConfig()
    stage = config.stage(UCF101)
    assert (stage.steps, stage.warmup, stage.batch_size, config.mixing) == (8_941, 0, 32, "model")
    assert stage.rate_at(0) == 1.6e-2
    assert stage.rate_at(8_940) == pytest.approx(4e-6, rel=1e-3)
    same = ("weight_decay", "layer_decay", "drop_path", "smoothing", "crop_scale", "flip", "augment")
    assert {name: getattr(config, name) for name in same} == {name: getattr(tuned, name) for name in same}
    average = AverageClassifier(AdaptiveAverage([VideoViT(DEMO), VideoViT(DEMO)]), 5)
    groups = parameter_groups(average, weight_decay=stage.weight_decay, layer_decay=stage.layer_decay, depth=DEMO.depth)
    assert {id(p): group["lr_scale"] for group in groups for p in group["params"]} == {
        id(p): 0.75 for p in (average.encoder.mixing, average.head.weight, average.head.bias)
    }


def test_the_released_rate_is_a_switch_of_the_command_line() -> None:
    config = command_line(["ppma", "--finetune.halved", "rest", "--finetune.start", "1e-6"]).finetune
    assert (config.halved, config.start, config.end) == ("rest", 1e-6, 5e-7)

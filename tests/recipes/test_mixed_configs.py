"""The named configs against the paper's numbers, and their rates at every step against a formula of its own."""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from understudy.models.align import Aligner
from understudy.models.mae import MaskedAutoencoder, visible_tokens
from understudy.models.optim import parameter_groups
from understudy.recipes.configs import MixedConfig, as_released, demo, ppma
from understudy.recipes.mixed import command_line
from understudy.recipes.stage import Stage
from understudy.recipes.stages import blend_rows
from understudy.shards.errors import UserError

# What the paper's stages are (epochs x steps, warm-up epochs, first, peak and last rate, weight decay, betas).
PAPER: dict[str, dict[str, Any]] = {
    "stage1": {
        "epochs": 200,
        "per_epoch": 700,
        "warm": 10.0,
        "rates": (5e-7, 8e-4, 0.0),
        "decay": 0.05,
        "betas": (0.9, 0.95),
    },
    "stage2": {
        "epochs": 50,
        "per_epoch": 1650,
        "warm": 6.25,
        "rates": (5e-7, 2e-3, 5e-7),
        "decay": 1e-4,
        "betas": (0.9, 0.999),
    },
}


def stages(config: MixedConfig) -> dict[str, Stage]:
    return {"stage1": config.stage1, "stage2": config.stage2}


def rates_by_formula(steps: int, warmup: int, first: float, peak: float, last: float, halved: str) -> np.ndarray:
    """All at once, with complex exponentials in place of a cosine."""
    step = np.arange(steps, dtype=np.float64)
    rising = first * (1 - step / max(1, warmup)) + peak * step / max(1, warmup)
    top = peak * {"no": 1.0, "whole": 0.5, "rest": 0.5}[halved]
    turn = step / steps if halved == "whole" else (step - warmup) / (steps - warmup)
    falling = (top + last) / 2 + (top - last) / 2 * np.real(np.exp(1j * np.pi * turn))
    return np.where(step < warmup, rising, falling)


@pytest.mark.parametrize("name", ["stage1", "stage2"])
@pytest.mark.parametrize("config", [ppma, as_released])
def test_papers_stages_at_every_step(config: Any, name: str) -> None:
    stage, paper = stages(config())[name], PAPER[name]
    assert stage.steps == paper["epochs"] * paper["per_epoch"]
    assert stage.warmup == int(paper["warm"] * paper["per_epoch"])
    assert (stage.start, stage.rate, stage.end) == paper["rates"]
    assert (stage.weight_decay, stage.betas) == (paper["decay"], paper["betas"])
    assert stage.batch_size == 128
    rates = np.array([stage.rate_at(step) for step in range(stage.steps)])
    halved = {"stage1": "whole", "stage2": "rest"}[name] if config is as_released else "no"
    expected = rates_by_formula(stage.steps, stage.warmup, *paper["rates"], halved)
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_demos_rates_at_every_step(name: str) -> None:
    stage = stages(demo())[name]
    rates = [stage.rate_at(step) for step in range(stage.steps)]
    expected = rates_by_formula(stage.steps, stage.warmup, 1e-6, stage.rate, 0.0, halved="no")
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-18)


def test_released_rates_are_those_that_its_code_gave() -> None:
    stage = as_released().stage1
    assert stage.rate_at(6_999) == pytest.approx(8e-4, rel=2e-4)
    assert stage.rate_at(7_000) == pytest.approx(3.975e-4, rel=2e-4)  # as it came out when that code was run
    stage = as_released().stage2
    assert stage.rate_at(10_311) == pytest.approx(2e-3, rel=2e-4)
    assert stage.rate_at(10_312) == 1e-3  # its cosine starts anew, at phase 0
    assert stage.rate_at(46_406) == pytest.approx(5.0025e-4, rel=1e-6)  # half of the way, half of the sum
    assert stage.rate_at(82_499) == pytest.approx(5e-7, rel=1e-2)
    for stage in stages(ppma()).values():  # ours has no such jump
        rates = [stage.rate_at(step) for step in range(stage.steps)]
        assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 2e-3 * stage.rate


def test_as_released_differs_where_its_code_does() -> None:
    ours, theirs = ppma(), as_released()
    differ = {f.name for f in fields(MixedConfig) if getattr(ours, f.name) != getattr(theirs, f.name)}
    assert differ == {"stage1", "stage2", "shared_head", "fresh_norm", "probe_views"}
    assert replace(theirs.stage1, halved="no") == ours.stage1
    assert replace(theirs.stage2, halved="no") == ours.stage2
    assert (theirs.shared_head, theirs.fresh_norm, theirs.probe_views.starts) == (True, True, "released")


def test_papers_stage_2_augments_as_the_paper() -> None:
    config = ppma()
    assert asdict(config.stage2.augment) == {
        "operations": 4, "magnitude": 7.0, "deviation": 0.5, "probability": 0.5,
        "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "group": 16,
    }  # fmt: skip
    assert asdict(config.stage1.augment) == asdict(demo().stage1.augment)  # nothing
    assert (config.smoothing, config.drop_path) == (0.1, 0.1)
    assert (config.stage1.views, config.stage2.views) == (4, 1)
    for stage in stages(config).values():
        assert (stage.crop_scale, stage.flip) == ((0.08, 1.0), False)
    assert config.vit.tokens - visible_tokens(config.vit.tokens, config.mae.mask_ratio) == 1411


def test_papers_layer_decay_by_parameter_name() -> None:
    config = ppma()
    with torch.device("meta"):
        model = Aligner(config.vit, {"real": 150, "synthetic": 150}, drop_path=config.drop_path)
    groups = parameter_groups(
        model, weight_decay=config.stage2.weight_decay, layer_decay=config.stage2.layer_decay, depth=config.vit.depth
    )
    of = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    scales = [0.0238, 0.0317, 0.0422, 0.0563, 0.0751, 0.1001, 0.1335, 0.1780, 0.2373, 0.3164, 0.4219, 0.5625]
    heads = ("heads.corpus-real.", "heads.corpus-synthetic.")
    expected = {f"encoder.blocks.{i}.": scale for i, scale in enumerate(scales)}
    expected |= {"encoder.patch_embed.": 0.0178, "encoder.norm.": 0.75, **dict.fromkeys(heads, 0.75)}
    seen: set[str] = set()
    for name, parameter in model.named_parameters():
        prefix = next(prefix for prefix in expected if name.startswith(prefix))
        seen.add(prefix)
        scale, decay = of[id(parameter)]
        assert scale == pytest.approx(expected[prefix], abs=5e-5), name
        assert decay == (0.0 if name.endswith("bias") or "norm" in name else 1e-4), name
    assert seen == set(expected)


def test_stage_1_decays_all_but_vectors() -> None:
    config = ppma()
    with torch.device("meta"):
        model = MaskedAutoencoder(config.vit, config.mae)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in parameter_groups(model, weight_decay=0.05):
        assert group["lr_scale"] == 1.0
        for parameter in group["params"]:
            name = names[id(parameter)]
            free = name.endswith("bias") or "norm" in name or name == "mask_token"
            assert group["weight_decay"] == (0.0 if free else 0.05), name


def test_all_names_and_switches_are_on_the_command_line() -> None:
    assert command_line(["as_released"]) == as_released()
    switches = "--mae.masking tube --mae.decode-share 0.5 --stage1.ema 0.999 --stage2.blend --stage2.augment.mixup 0"
    config = command_line(["ppma", *switches.split(), "--stage2.halved", "rest", "--shared-head", "--fresh-norm"])
    assert (config.mae.masking, config.mae.decode_share, config.stage1.ema) == ("tube", 0.5, 0.999)
    assert (config.stage2.blend, config.stage2.augment.mixup, config.stage2.halved) == (True, 0, "rest")
    assert (config.shared_head, config.fresh_norm) == (True, True)


def test_a_blended_batch_is_shared_out_by_weight() -> None:
    assert blend_rows([1, 1], 8, 1) == [4, 4]
    assert blend_rows([1, 2], 8, 1) == [3, 5]
    assert blend_rows([1, 2], 48, 1) == [16, 32]
    assert blend_rows([89_665, 120_000], 128, 1) == [56, 72]  # in eights, so that eight ranks can share them
    assert blend_rows([1, 1000], 16, 2) == [2, 14]
    for shares, rows in (([5, 3, 2], 40), ([1, 1, 97], 10), ([1, 1, 1], 8)):
        shared = blend_rows(shares, rows, 1)
        assert sum(shared) == rows
        assert min(shared) >= 1
    with pytest.raises(UserError, match="can't be blended"):
        blend_rows([1, 1, 1], 8, 4)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="decode-share"):
        replace(demo(), mae=replace(demo().mae, decode_share=0.5), vit=replace(demo().vit, size=36))
    with pytest.raises(UserError, match="average's decay"):
        replace(demo().stage1, ema=1.0)
    for wrong in ({"rate": -1.0}, {"weight_decay": -0.1}, {"layer_decay": 0.0}, {"betas": (0.9, 1.0)}):
        with pytest.raises(UserError, match="a stage needs a rate"):
            replace(demo().stage2, **wrong)
    for wrong in ({"operations": 15}, {"operations": -1}, {"erasing": 1.5}, {"mixup": -0.1}, {"probability": 2.0}):
        with pytest.raises(UserError, match="augment needs 0 to 14 operations"):
            replace(demo().stage2, augment=replace(demo().stage2.augment, **wrong))

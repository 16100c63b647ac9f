"""Probes, the split that their rate is chosen on, the adaptive average, statistics of groups and classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.models import attentive
from understudy.models.attentive import AttentiveConfig, AttentiveProbe, attentive_probes
from understudy.models.average import AdaptiveAverage
from understudy.models.probe import ProbeConfig, group_split, linear_probes, probe_epochs
from understudy.models.stats import class_mean, paired_difference
from understudy.models.vit import VideoViT, ViTConfig

TINY = ViTConfig(frames=2, size=16, patch=8, width=16, depth=2, heads=2)


def clouds(rows: int, classes: int = 5, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    centres = torch.randn(classes, width, generator=generator) * 3
    return centres[labels] + torch.randn(rows, width, generator=generator), labels


def test_probes_are_those_of_autograd_and_torch_adamw() -> None:
    x, y = clouds(70)
    config = ProbeConfig(epochs=3, batch_size=32, least_steps=0, seeds=2, weight_decay=0.1)
    ours = linear_probes(x[:50], y[:50], x[50:], 5, config, (1e-2, 3e-1))
    train, test = ((part - x[:50].mean(0)) / (x[:50].std(0) + 1e-6) for part in (x[:50], x[50:]))
    for r, rate in enumerate((1e-2, 3e-1)):
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            weight = (torch.randn(16, 5, generator=generator) * 0.01).requires_grad_()
            bias = torch.zeros(5, requires_grad=True)
            groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=rate)
            for epoch in range(3):
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * epoch / 3))
                for rows in torch.randperm(50, generator=generator).split(32):
                    optimizer.zero_grad()
                    F.cross_entropy(train[rows] @ weight + bias, y[rows]).backward()
                    optimizer.step()
            torch.testing.assert_close(ours[r, seed], (test @ weight + bias).detach(), rtol=1e-3, atol=1e-4)


def test_a_probe_does_not_depend_on_those_beside_it_and_learns() -> None:
    x, y = clouds(200)
    config = ProbeConfig(epochs=20, seeds=3)
    many = linear_probes(x[:150], y[:150], x[150:], 5, config, (1e-3, 1e-2, 1e-1))
    assert many.shape == (3, 3, 50, 5)
    alone = linear_probes(x[:150], y[:150], x[150:], 5, replace(config, seeds=1), (1e-2,))
    torch.testing.assert_close(many[1, 0], alone[0, 0], rtol=1e-4, atol=1e-4)
    assert (many[1].argmax(dim=2) == y[150:]).double().mean() > 0.9
    again = linear_probes(x[:150], y[:150], x[150:], 5, config, (1e-3, 1e-2, 1e-1))
    torch.testing.assert_close(many, again, rtol=0, atol=0)
    assert not torch.equal(many[1, 0], many[1, 1])
    moved = linear_probes(x[:150], (y[:150] + 1) % 5, x[150:], 5, config, (1e-2,))
    assert (moved.argmax(dim=3) == (y[150:] + 1) % 5).double().mean() > 0.9


def test_a_task_of_one_batch_is_learnt_too() -> None:
    assert probe_epochs(rows=70, epochs=30, batch_size=128, least_steps=100) == 100
    assert probe_epochs(rows=129, epochs=30, batch_size=128, least_steps=100) == 50
    assert probe_epochs(rows=9_537, epochs=30, batch_size=128, least_steps=100) == 30
    x, y = clouds(30)
    config = ProbeConfig(epochs=1, seeds=1)
    learnt = linear_probes(x, y, x, 5, config, (1e-2,)).argmax(dim=3) == y
    one_step = linear_probes(x, y, x, 5, replace(config, least_steps=0), (1e-4,)).argmax(dim=3) == y
    assert learnt.all() and not one_step.all()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=2, max_size=60),
    mixed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_split_tears_no_group_apart_and_leaves_every_class(
    sizes: list[tuple[int, int]], mixed: bool, seed: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), [size for _, size in sizes])
    labels = np.repeat([label for label, _ in sizes], [size for _, size in sizes])
    if mixed:
        labels = np.random.default_rng(seed).permutation(labels)
    try:
        held = group_split(labels, groups, 0.2, seed)
    except ValueError:
        return
    assert 0 < held.sum() < len(labels)
    assert not set(groups[held]) & set(groups[~held])
    assert set(labels[~held]) == set(labels)
    np.testing.assert_array_equal(held, group_split(labels, groups, 0.2, seed))


def test_a_split_is_about_as_large_as_asked_for_and_of_all_classes() -> None:
    labels = np.repeat(np.arange(10), 100)
    groups = np.arange(1000) // 4  # 25 groups a class
    held = group_split(labels, groups, 0.2)
    assert np.bincount(labels[held]).tolist() == pytest.approx([20] * 10, abs=4)
    with pytest.raises(ValueError, match="single rate"):
        group_split(labels, labels)


@pytest.mark.parametrize("seed", range(5))
def test_of_classes_with_large_groups_only_the_smallest_are_held_out(seed: int) -> None:
    labels = np.repeat([0, 1], 50)
    groups = np.repeat([0, 1, 2, 3], [45, 5, 20, 30])  # of the first a tenth, of the second less than half
    held = group_split(labels, groups, 0.2, seed)
    assert set(groups[held]) == {1, 2}


@pytest.mark.parametrize("bf16", [False, True])
def test_attentive_probe_finds_the_token_that_tells(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "_computes_in_bf16", lambda _: bf16)  # as on a GPU that does
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    tokens = torch.randn(120, 12, 16, generator=generator) * 0.3
    marks = torch.randn(3, 16, generator=generator) * 3
    where = torch.randint(12, (120,), generator=generator)
    tokens[torch.arange(120), where] += marks[y]  # one token of twelve: the mean hardly shows it
    config = AttentiveConfig(blocks=2, heads=2, epochs=20, batch_size=16, seeds=2)
    rows, rest = torch.arange(90), torch.arange(90, 120)
    logits = attentive_probes(tokens.half(), y, rows, tokens.half(), rest, 3, config, (1e-2, 1e-5), torch.device("cpu"))
    assert (logits.shape, logits.dtype) == ((2, 2, 30, 3), torch.float32)
    right = (logits.argmax(dim=3) == y[90:]).double().mean(dim=(1, 2))
    assert right[0] > 0.9 > right[1]
    assert len(AttentiveProbe(32, 3, AttentiveConfig()).blocks) == 3  # and the query's makes four
    with pytest.raises(ValueError, match="do not divide"):
        AttentiveProbe(24, 3, AttentiveConfig())


def test_attentive_probes_keep_float32_weights_and_compute_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "_computes_in_bf16", lambda _: True)
    products: list[torch.dtype] = []
    updated: list[torch.dtype] = []
    step = torch.optim.AdamW.step

    class Probe(AttentiveProbe):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            self.head.register_forward_hook(lambda _, inputs, output: products.append(output.dtype))

    def remember(optimizer: torch.optim.AdamW) -> None:
        updated.extend(p.dtype for group in optimizer.param_groups for p in group["params"])
        updated.extend(p.grad.dtype for group in optimizer.param_groups for p in group["params"])
        step(optimizer)

    monkeypatch.setattr(attentive, "AttentiveProbe", Probe)
    monkeypatch.setattr(torch.optim.AdamW, "step", remember)
    tokens, rows = torch.randn(8, 4, 16).half(), torch.arange(8)
    config = AttentiveConfig(blocks=2, heads=2, epochs=1, batch_size=4, least_steps=0, seeds=1)
    attentive_probes(tokens, rows % 2, rows, tokens, rows, 2, config, (1e-3,), torch.device("cpu"))
    assert set(products) == {torch.bfloat16}
    assert set(updated) == {torch.float32}


def test_settings_of_which_no_probe_can_be_made_are_refused() -> None:
    for wrong in ({"blocks": 0}, {"heads": 0}, {"seeds": 0}, {"rates": ()}):
        with pytest.raises(ValueError, match="at least"):
            AttentiveConfig(**wrong)  # pyright: ignore[reportArgumentType]


def encoders() -> list[VideoViT]:
    torch.manual_seed(0)
    made = [VideoViT(TINY).double() for _ in range(2)]
    for encoder in made:
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("mixing", ["tensor", "model"])
def test_gradients_of_the_adaptive_average_are_finite_differences(mixing: str) -> None:
    first, second = encoders()
    average = AdaptiveAverage([first, second], mixing).double()  # type: ignore[arg-type]
    average._template[0].double()
    clips = torch.randn(3, 3, 2, 16, 16, dtype=torch.float64)
    direction = torch.randn(3, 16, dtype=torch.float64)

    def value() -> Tensor:
        return (average(clips) * direction).sum()

    value().backward()
    gradient = average.mixing.grad
    assert gradient is not None and gradient.shape == ((1 if mixing == "model" else len(average.names)), 2)
    assert gradient.abs().max() > 1e-3
    for group in range(len(gradient)):
        for model in range(2):
            with torch.no_grad():
                average.mixing[group, model] += 1e-5
                up = value()
                average.mixing[group, model] -= 2e-5
                down = value()
                average.mixing[group, model] += 1e-5
            assert gradient[group, model].item() == pytest.approx(((up - down) / 2e-5).item(), rel=1e-5, abs=1e-7)


def test_the_adaptive_average_starts_as_the_plain_one_and_merges_to_what_it_computes() -> None:
    first, second = (encoder.float() for encoder in encoders())
    average = AdaptiveAverage([first, second])
    plain = {name: (a + b) / 2 for (name, a), b in zip(first.state_dict().items(), second.state_dict().values())}
    for name, tensor in average.merged().state_dict().items():
        torch.testing.assert_close(tensor, plain[name])
    with torch.no_grad():
        average.mixing.normal_(std=3)
    clips = torch.randint(256, (2, 3, 2, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(average.merged()(clips), average(clips), rtol=1e-4, atol=1e-5)
    assert set(average.state_dict()) == {"mixing"}
    assert [name for name, _ in average.named_parameters()] == ["mixing"]
    with torch.no_grad():
        average.mixing[:] = torch.tensor([50.0, -50.0])
    torch.testing.assert_close(average.merged()(clips), first(clips))
    dropping = AdaptiveAverage([first, second], drop_path=0.9)
    torch.testing.assert_close(dropping.eval()(clips), AdaptiveAverage([first, second])(clips))
    assert not torch.allclose(dropping.train()(clips), dropping(clips))  # other paths each time
    with pytest.raises(ValueError, match="different shapes"):
        AdaptiveAverage([first, VideoViT(replace(TINY, depth=1))])


def test_a_difference_over_groups_is_as_uncertain_as_the_groups_are_few() -> None:
    rng = np.random.default_rng(0)
    per_group = rng.normal(0.1, 0.3, 8)
    a, groups = np.repeat(per_group, 20), np.repeat(np.arange(8), 20)
    zero = np.zeros(160)
    mean, low, high = paired_difference(a, zero, groups)
    alone = paired_difference(a, zero)
    assert mean == alone[0] == pytest.approx(a.mean())
    # As the t interval of a mean of 8 groups, not of 160 videos.
    expected = 2 * scipy.stats.t.ppf(0.975, 7) * per_group.std(ddof=1) / math.sqrt(8)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert (high - low) / (alone[2] - alone[1]) > math.sqrt(20)
    assert paired_difference(a, zero, np.zeros(160, np.int64)) == (mean, -1.0, 1.0)
    assert paired_difference(a, zero, np.arange(160) * 7 + 3) == alone


def test_class_mean_weighs_classes_alike() -> None:
    labels = np.array([0] * 90 + [2] * 10)
    correct = np.array([1.0] * 90 + [0.5] * 10)
    assert class_mean(correct, labels) == pytest.approx(0.75)


@pytest.mark.parametrize("mixing", ["tensor", "model"])
def test_under_autocast_the_average_is_the_one_that_is_merged(mixing: str) -> None:
    first, second = (encoder.float() for encoder in encoders())
    average = AdaptiveAverage([first, second], mixing)  # type: ignore[arg-type]
    with torch.no_grad():
        average.mixing.normal_()
    with torch.autocast("cpu", torch.bfloat16):
        weights = average.weights()
    merged = average.merged()
    for name, parameter in merged.named_parameters():
        assert weights[name].dtype == torch.float32
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=0, atol=0)
    clips = torch.randint(256, (2, 3, 2, 16, 16), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        features = average(clips)
        torch.testing.assert_close(features, merged(clips), rtol=0, atol=0)
        features.float().square().sum().backward()
    assert average.mixing.grad is not None and average.mixing.grad.abs().max() > 0

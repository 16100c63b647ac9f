"""Activations that are computed again: the same losses and gradients to the bit, from less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from understudy.models.align import Aligner
from understudy.models.mae import MAEConfig, MaskedAutoencoder, draw_masks
from understudy.models.vit import ViTConfig, checkpoint_activations

TINY = ViTConfig(frames=4, size=32, patch=8, width=32, depth=3, heads=2)
ROWS = 4


def make(stage: str, drop_path: float) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """A model in training and what gives its loss."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (ROWS, 3, TINY.frames, TINY.size, TINY.size), generator=generator).byte()
    ok = torch.ones(ROWS, dtype=torch.bool)
    torch.manual_seed(0)
    if stage == "stage1":
        mae = MAEConfig(decoder_width=16, decoder_depth=2, decoder_heads=2)
        masks = draw_masks(ROWS, TINY.grid, mae, generator)
        return MaskedAutoencoder(TINY, mae), lambda model: model(clips, *masks, ok)
    labels = torch.arange(ROWS) % 3
    return Aligner(TINY, {"a": 3}, drop_path=drop_path), lambda model: model(clips, labels, ok, "a", 0.1)[0]


def step(model: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradients, and bytes that were kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model)
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_same_from_less_memory(stage: str) -> None:
    model, loss_of = make(stage, drop_path=0.5)
    twin = copy.deepcopy(model).train()
    checkpoint_activations(twin)
    loss, gradients, kept = step(model.train(), loss_of)
    again, others, less = step(twin, loss_of)
    assert loss == again
    assert len(gradients) == len(others) == len(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, others))
    assert less < kept / 2
    assert list(model.state_dict()) == list(twin.state_dict())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_same_compiled(stage: str) -> None:
    model, loss_of = make(stage, drop_path=0.0)
    twin = copy.deepcopy(model).train()
    checkpoint_activations(twin)
    twin.compile(backend="aot_eager")  # all of compiling but the compiler
    loss, gradients, _ = step(model.train(), loss_of)
    again, others, _ = step(twin, loss_of)
    torch.testing.assert_close(loss, again)
    for a, b in zip(gradients, others):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

"""Parity with transformers' VideoMAE on random weights: logits and loss to 1e-5, in both directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from small_models import (  # pyright: ignore[reportMissingImports]
    DECODER,
    SMALL,
    as_transformers_sees,
    make_clips,
    shake,
)

from understudy.models import VideoClassifier, load_encoder
from understudy.models.mae import MaskedAutoencoder, draw_masks
from understudy.models.vit import to_patches

pytest.importorskip("transformers", reason='needs transformers: pip install -e ".[transformers]"')
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

from understudy.models import transformers_io


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_classifier_to_transformers_and_back(pool: Literal["mean", "first"], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VideoClassifier(replace(SMALL, pool=pool), num_classes=7).eval()
    shake(model)
    clips = make_clips()
    theirs = transformers_io.classifier_to_transformers(model, [f"class {i}" for i in range(7)])
    assert theirs.config.use_mean_pooling == (pool == "mean")
    assert dict(theirs.config.id2label or {})[3] == "class 3"  # pyright: ignore[reportCallIssue, reportArgumentType]
    with torch.no_grad():
        logits = theirs(as_transformers_sees(clips)).logits
        torch.testing.assert_close(logits, model(clips), rtol=0, atol=1e-5)
        assert logits.std() > 0.1  # the test would see a difference
        back = transformers_io.classifier_from_transformers(theirs)
        # Weights come back, but for the keys' bias, which nothing depends on; transformers' epsilon comes with them.
        for name, tensor in back.state_dict().items():
            if name.endswith("qkv.bias"):
                continue
            torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)
        # A plain from_pretrained has transformers' epsilon in the last norm: near, and equal once it is set.
        theirs.save_pretrained(tmp_path)
        again = type(theirs).from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(as_transformers_sees(clips)).logits, model(clips), rtol=0, atol=1e-3)
        torch.testing.assert_close(again(as_transformers_sees(clips)).logits, back(clips), rtol=0, atol=1e-5)
        loaded, _ = load_encoder(tmp_path)
        torch.testing.assert_close(loaded(clips), back.encoder(clips), rtol=0, atol=0)


@pytest.mark.parametrize("pooled", [True, False])
def test_classifier_from_transformers(pooled: bool) -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=64, num_frames=4, hidden_size=192, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=768, use_mean_pooling=pooled,
        id2label={i: str(i) for i in range(7)},
    )  # fmt: skip
    theirs = VideoMAEForVideoClassification(config).eval()
    shake(theirs)
    ours, clips = transformers_io.classifier_from_transformers(theirs), make_clips()
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs(as_transformers_sees(clips)).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooled", [True, False])
def test_autoencoder_from_transformers_and_back(pooled: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=64, num_frames=4, hidden_size=192, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=768, use_mean_pooling=pooled, decoder_hidden_size=96, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4, decoder_intermediate_size=384,
    )  # fmt: skip
    theirs = VideoMAEForPreTraining(config).eval()
    shake(theirs)
    ours, clips = transformers_io.autoencoder_from_transformers(theirs), make_clips()
    assert ours.config.norm_latent != pooled
    visible, masked = draw_masks(2, SMALL.grid, DECODER, torch.Generator().manual_seed(0))
    mask = torch.zeros(2, SMALL.tokens, dtype=torch.bool).scatter_(1, masked, True)
    again = transformers_io.autoencoder_to_transformers(ours)
    with torch.no_grad():
        expected = theirs(as_transformers_sees(clips), mask).loss
        loss = ours(clips, visible, masked, torch.ones(2, dtype=torch.bool))
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(again(as_transformers_sees(clips), mask).loss, expected, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path)
    loaded, _ = load_encoder(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.tokens(to_patches(clips, SMALL)), ours.encoder.tokens(to_patches(clips, SMALL)), rtol=0, atol=0
        )


def test_our_autoencoder_to_transformers() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(SMALL, replace(DECODER, layout="videomae")).eval()
    shake(model)
    clips = make_clips()
    visible, masked = draw_masks(2, SMALL.grid, DECODER, torch.Generator().manual_seed(0))
    mask = torch.zeros(2, SMALL.tokens, dtype=torch.bool).scatter_(1, masked, True)
    theirs = transformers_io.autoencoder_to_transformers(model)
    with torch.no_grad():
        expected = model(clips, visible, masked, torch.ones(2, dtype=torch.bool))
        torch.testing.assert_close(theirs(as_transformers_sees(clips), mask).loss, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="layout='videomae'"):
        transformers_io.autoencoder_to_transformers(MaskedAutoencoder(SMALL, DECODER))

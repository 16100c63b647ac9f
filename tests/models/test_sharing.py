"""Weights leave and come back, by the Hub mixin, timm and files of other origin, and compute the same."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_models import (  # pyright: ignore[reportMissingImports]
    DECODER,
    SMALL,
    as_transformers_sees,
    make_clips,
    make_encoder,
    shake,
)
from torch import Tensor, nn

from understudy.models import VideoClassifier, load_encoder
from understudy.models.align import SHARED, Aligner, head_name
from understudy.models.loading import header
from understudy.models.mae import MaskedAutoencoder
from understudy.models.vit import BASE, VideoViT, sinusoid_positions
from understudy.models.whole import MODEL, load_classifier, whole_header


def assert_same_features(path: Path, encoder: VideoViT) -> None:
    loaded, config = load_encoder(path)
    assert config == encoder.config == loaded.config
    with torch.no_grad():
        torch.testing.assert_close(loaded(make_clips()), encoder(make_clips()), rtol=0, atol=0)


def test_save_pretrained_folders_come_back(tmp_path: Path) -> None:
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "encoder")
    assert json.loads((tmp_path / "encoder" / "config.json").read_text()) == asdict(SMALL)
    assert_same_features(tmp_path / "encoder", encoder)
    again = VideoViT.from_pretrained(tmp_path / "encoder")
    assert again.config == SMALL
    torch.testing.assert_close(again.state_dict(), encoder.state_dict(), rtol=0, atol=0)

    classifier = VideoClassifier(SMALL, num_classes=5).eval()
    shake(classifier)
    classifier.save_pretrained(tmp_path / "classifier")
    assert_same_features(tmp_path / "classifier", classifier.encoder)
    back = VideoClassifier.from_pretrained(tmp_path / "classifier").eval()
    torch.testing.assert_close(back(make_clips()), classifier(make_clips()), rtol=0, atol=0)

    autoencoder = MaskedAutoencoder(SMALL, DECODER)
    shake(autoencoder)
    autoencoder.save_pretrained(tmp_path / "mae")
    assert_same_features(tmp_path / "mae", autoencoder.encoder)
    assert MaskedAutoencoder.from_pretrained(tmp_path / "mae").config == DECODER


def test_a_runs_files_come_back(tmp_path: Path) -> None:
    encoder = make_encoder()
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors", header(SMALL))
    assert_same_features(tmp_path, encoder)
    assert_same_features(tmp_path / "encoder.safetensors", encoder)
    step = tmp_path / "step-00000010"
    step.mkdir()
    wrapped = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_file({**wrapped, "heads.corpus-a.weight": torch.zeros(3, 192)}, step / "model.safetensors", header(SMALL))
    assert_same_features(step, encoder)


@pytest.mark.parametrize("shared", [False, True])
def test_a_corpus_may_have_any_name(shared: bool, tmp_path: Path) -> None:
    names = ["train", "eval", "type", "keys", "training", "shared", SHARED, "a.b", "a_b", "a%2Eb", "-", "é x"]
    classes = {name: [f"{name} {i}" for i in range(2 + number)] for number, name in enumerate(names)}
    aligner = Aligner(SMALL, {name: len(own) for name, own in classes.items()}, shared_head=shared).eval()
    shake(aligner)
    save_file(aligner.state_dict(), tmp_path / MODEL, whole_header(aligner, classes))
    features = aligner.encoder(make_clips())
    for name, own in classes.items():
        classifier, of_it = load_classifier(tmp_path, name)
        assert of_it == own
        logits = aligner.heads[SHARED if shared else head_name(name)](features)[:, : len(own)]
        torch.testing.assert_close(classifier(make_clips()), logits)  # a matrix of other sizes rounds differently
    # A file in which heads have the bare names of corpora: `shared` could then be either.
    bare = {name.replace("corpus-", "").replace(SHARED, "shared"): t for name, t in aligner.state_dict().items()}
    save_file(bare, tmp_path / MODEL, whole_header(aligner, classes))
    with pytest.raises(ValueError, match=r"no heads\.corpus-eval, so that another version wrote it; train it again"):
        load_classifier(tmp_path, "eval")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_state_dict_with_videomaes_names_comes_back(suffix: str, tmp_path: Path) -> None:
    encoder = make_encoder(replace(BASE, width=192, depth=2, heads=3))
    weights: dict[str, Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        if name.endswith("qkv.bias"):  # VideoMAE keeps two biases, for queries and values
            query, key, value = tensor.chunk(3)
            key.zero_()
            weights |= {
                name.replace("qkv.bias", "q_bias"): query.clone(),
                name.replace("qkv.bias", "v_bias"): value.clone(),
            }
        else:
            weights[name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name] = tensor
    weights |= {"head.weight": torch.zeros(7, 192), "head.bias": torch.zeros(7)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"module": weights}, path)
    else:
        save_file(weights, path)
    loaded, config = load_encoder(path)
    assert config == encoder.config
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)


def weights_of_width(width: int) -> dict[str, Tensor]:
    """One block of so many channels, as a trainer writes it: no configuration beside the weights."""
    return make_encoder(replace(BASE, width=width, depth=1, heads=1)).state_dict()


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)]
)  # of VideoMAE (arXiv 2203.12602) and VideoMAE V2 (2303.16727)
def test_the_heads_of_published_models_are_known(width: int, heads: int, tmp_path: Path) -> None:
    weights = weights_of_width(width)
    save_file(weights, tmp_path / "weights.safetensors")
    assert load_encoder(tmp_path / "weights.safetensors")[1] == replace(BASE, width=width, depth=1, heads=heads)


def test_the_heads_of_other_widths_are_asked_for(tmp_path: Path) -> None:
    save_file(weights_of_width(128), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"128 wide.*heads=N"):
        load_encoder(tmp_path / "weights.safetensors")
    encoder, config = load_encoder(tmp_path / "weights.safetensors", heads=4)
    assert config.heads == 4
    encoder.save_pretrained(tmp_path / "folder")
    assert load_encoder(tmp_path / "folder")[1] == config
    with pytest.raises(ValueError, match="has 4 heads, not 2"):
        load_encoder(tmp_path / "folder", heads=2)
    with pytest.raises(ValueError, match="heads 3 must divide width 128"):
        load_encoder(tmp_path / "weights.safetensors", heads=3)


class OfATrainer:
    """What a checkpoint should not hold."""


def test_a_trainers_settings_may_lie_beside_its_weights_but_no_code(tmp_path: Path) -> None:
    weights = weights_of_width(192)
    settings = argparse.Namespace(lr=1e-3, model="vit", betas=[0.9, 0.95])
    torch.save({"model": weights, "args": settings, "epoch": 7}, tmp_path / "run.pth")
    assert load_encoder(tmp_path / "run.pth")[1].heads == 3
    torch.save({"model": weights, "args": OfATrainer()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"holds a .*OfATrainer.*save its state dict alone") as caught:
        load_encoder(tmp_path / "code.pth")
    assert "\n" not in str(caught.value)
    assert "weights_only argument" not in str(caught.value)  # PyTorch's page of advice


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_ensembles_models_are_told_by_number(wrapped: bool, tmp_path: Path) -> None:
    encoders = [make_encoder(replace(BASE, width=192, depth=1, heads=3)) for _ in range(2)]
    shake(encoders[1])
    models = [
        {**{f"trunk.{name}": tensor for name, tensor in encoder.state_dict().items()}, "heads.0.0.bias": torch.zeros(7)}
        for encoder in encoders
    ]
    path = tmp_path / "ensemble.pt"
    torch.save({"model": {"models": models}} if wrapped else {"models": models}, path)
    for number, encoder in enumerate(encoders):
        loaded, _ = load_encoder(f"{path}#{number}")
        torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    for wrong in (path, f"{path}#2"):
        with pytest.raises(ValueError, match=r"ensemble\.pt: holds 2 models; say which with #0 to #1 after the name"):
            load_encoder(wrong)
    torch.save({"model": models[0]}, tmp_path / "one.pt")
    encoders[0].save_pretrained(tmp_path / "folder")
    for one in ("one.pt#1", "folder#1"):
        with pytest.raises(ValueError, match="holds a single model; leave out #1"):
            load_encoder(tmp_path / one)
    (tmp_path / "one.pt").rename(tmp_path / "one#1")  # a name may end so itself
    torch.testing.assert_close(load_encoder(tmp_path / "one#1")[0].state_dict(), encoders[0].state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_positions_in_any_precision_are_sinusoids_or_not(dtype: torch.dtype, tmp_path: Path) -> None:
    weights, table = weights_of_width(192), sinusoid_positions(BASE.tokens, 192)[None]
    save_file({**weights, "pos_embed": table.to(dtype)}, tmp_path / "fixed.safetensors")
    assert load_encoder(tmp_path / "fixed.safetensors")[1].heads == 3
    learned = table + 0.02 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    save_file({**weights, "pos_embed": learned.to(dtype)}, tmp_path / "learned.safetensors")
    with pytest.raises(ValueError, match="learned positions"):
        load_encoder(tmp_path / "learned.safetensors")


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"looked for model\.safetensors"):
        load_encoder(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"not an encoder's weights, 'patch_embed\.proj\.weight' is missing"):
        load_encoder(tmp_path / "x.safetensors")
    for name in ("junk.safetensors", "junk.pth"):
        (tmp_path / name).write_bytes(b"junk" * 100)
        with pytest.raises(ValueError, match="can't be read"):
            load_encoder(tmp_path / name)
    weights = make_encoder().state_dict()
    save_file(weights, tmp_path / "shape.safetensors", header(replace(SMALL, width=96)))
    with pytest.raises(ValueError, match=r"weights of another model: patch_embed\.proj\.weight is \[192.*, not \[96"):
        load_encoder(tmp_path / "shape.safetensors")
    cut = {name: tensor for name, tensor in weights.items() if "blocks.1.mlp" not in name}
    save_file(cut, tmp_path / "cut.safetensors", header(SMALL))
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc1\.weight is missing \(and 3 more\)"):
        load_encoder(tmp_path / "cut.safetensors")
    save_file({**weights, "cls_token": torch.zeros(1, 1, 192)}, tmp_path / "cls.safetensors")
    with pytest.raises(ValueError, match="class token"):
        load_encoder(tmp_path / "cls.safetensors")
    save_file({**weights, "pos_embed": torch.zeros(1, 32, 192)}, tmp_path / "pos.safetensors")
    with pytest.raises(ValueError, match="learned positions"):
        load_encoder(tmp_path / "pos.safetensors")
    image = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", pos_embed="none", depth=1)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match="image model"):
        load_encoder(tmp_path / "image.safetensors")


def test_timm_makes_it_by_name() -> None:
    with torch.device("meta"):
        model = timm.create_model("understudy_base", num_classes=150)
    assert isinstance(model, VideoClassifier)
    assert model.encoder.config == BASE
    assert model.get_classifier().out_features == 150
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    with pytest.raises(ValueError, match="no weights are published"):
        timm.create_model("understudy_small", pretrained=True)
    small = VideoClassifier(SMALL, 0).eval()
    torch.testing.assert_close(small(make_clips()), small.encoder(make_clips()))


def test_floats_are_taken_as_normalised() -> None:
    encoder, clips = make_encoder(), make_clips()
    torch.testing.assert_close(
        encoder(as_transformers_sees(clips).transpose(1, 2)), encoder(clips), rtol=1e-5, atol=1e-5
    )

"""A run's model as a folder to share: `python recipes/share.py runs/mine/stage2 shared/mine --licence cc-by-4.0`.

The folder holds model.safetensors, config.json and a model card that is written from the run's own results and ledgers:
what it says of the data is what the loader counted. `push_to_hub` and `from_pretrained` take it as it is. The model is
the encoder, a stage 1 with its decoder, or a stage 2 with its head for one corpus.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from understudy.models.loading import load_encoder
from understudy.models.vit import ViTConfig
from understudy.models.whole import load_autoencoder, load_classifier
from understudy.recipes.checkpoint import os_errors
from understudy.recipes.features import weights_digest
from understudy.recipes.provenance import Provenance, provenance_of, write_origin
from understudy.recipes.start import told_in_one_line
from understudy.recipes.table import PROTOCOLS
from understudy.recipes.train import REPORT
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic

STAGES = ("stage1", "stage2", "stage2-only")
KINDS = {
    "no-human": "videos from which people were removed",
    "synthetic": "videos of synthetic people",
    "real": "videos of real people",
}


@dataclass(frozen=True)
class Share:
    """Write a folder to share from a stage of a run."""

    stage: tyro.conf.Positional[Path]
    """A finished stage of a run, such as runs/mine/stage2."""
    out: tyro.conf.Positional[Path]
    """The folder to write; it must not exist."""
    licence: str
    """Of the weights, by its identifier on the Hub; the data's own licences may limit what it can be."""
    what: Literal["encoder", "autoencoder", "classifier"] = "encoder"
    """autoencoder: a stage1 with its decoder; classifier: a stage2 with its head for --corpus."""
    corpus: str | None = None
    """A corpus that stage 2 aligned with, by its name."""
    results: tuple[Path, ...] = ()
    """More results.json files, of transfer, whose rows of this encoder go into the card."""
    title: str = "Understudy encoder"


def share(config: Share) -> None:
    """Write `config.out`, whole or not at all. Raises UserError where the stage is not there or not finished, OSError
    where the disk is full.
    """
    if config.out.exists():
        raise UserError(f"{config.out}: exists already; choose another folder")
    run = config.stage.resolve().parent
    if config.stage.resolve().name not in STAGES:
        raise UserError(f"{config.stage}: not a stage of a run; name one of RUN/{', RUN/'.join(STAGES)}")
    if not (config.stage / REPORT).exists():
        raise UserError(f"{config.stage}: has not finished; run the same training command again")
    provenance = provenance_of(config.stage)
    if (config.corpus is not None) != (config.what == "classifier"):
        if config.what == "classifier":
            raise UserError("--what classifier: name the corpus whose head it is to have with --corpus")
        raise UserError(f"--corpus names the head of a classifier; it does not go with --what {config.what}")
    classes: list[str] = []
    try:
        encoder, vit = load_encoder(config.stage)
        model = encoder
        if config.what == "autoencoder":
            model = load_autoencoder(config.stage)
        elif config.corpus is not None:
            model, classes = load_classifier(config.stage, config.corpus)
    except ValueError as error:
        raise UserError(str(error)) from None
    files = [run / "results.json"] if (run / "results.json").exists() else []
    digest = weights_digest(encoder)
    rows = [row for file in (*files, *config.results) for row in _read(file)["rows"] if row["digest"] == digest]
    card = model_card(config, vit, provenance, rows)
    temporary = config.out.with_name(f".{config.out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with os_errors():
            model.save_pretrained(temporary)
        if classes:
            write_atomic(temporary / "classes.json", (json.dumps(classes, indent=1) + "\n").encode())
        write_origin(temporary, [asdict(provenance)])
        write_atomic(temporary / "README.md", card.encode())
        temporary.rename(config.out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def model_card(config: Share, vit: ViTConfig, provenance: Provenance, rows: list[dict[str, Any]]) -> str:
    """The card as Markdown with the Hub's YAML before it: data by stage, people, results, and what is not claimed."""
    corpora = {about["digest"]: about for about in provenance.corpora()}
    clips = {kind: sum(c["samples"] for c in corpora.values() if c["kind"] == kind) for kind in KINDS}
    people = " and ".join(f"{count:,} {KINDS[kind]}" for kind, count in clips.items() if count)
    real = clips["real"]
    beside, used = _use(config, vit)
    lines = [
        "---",
        "library_name: understudy",
        f"license: {config.licence}",
        "pipeline_tag: video-classification",
        "tags: [video, action-recognition, masked-autoencoder, understudy]",
        "---",
        "",
        f"# {config.title}",
        "",
        f"A video transformer encoder, {vit.depth} blocks of width {vit.width}, for clips of {vit.frames} frames of "
        f"{vit.size} x {vit.size} pixels{beside}. It was pre-trained by the PPMA method (arXiv 2311.06231) "
        f"on {people}.",
        "",
        "```python",
        *used,
        "```",
        "",
        "## What it was trained on",
        "",
        "Counted by the loader while training. `seen` is how often a clip was taken from a corpus, `skipped` how many "
        "of those could not be decoded and added nothing.",
        "",
        "| stage | corpus | kind | clips | seen | skipped | licence | digest |",
        "|---|---|---|---:|---:|---:|---|---|",
    ]
    for stage in provenance.trained_on:
        for old in stage.get("replaced", []):
            lines.append(_row(stage["stage"], f"{old['source']}, until step {old['until']:,}", old, "as below", ""))
        for name, about in stage["corpora"].items():
            seen, skipped = stage["seen"].get(name, 0), sum(stage["skipped"].get(name, {}).values())
            lines.append(_row(stage["stage"], name, about, f"{seen:,}", f"{skipped:,}"))
    lines += ["", "## People in the data", ""]
    if real:
        lines += [f"**{real:,} clips show real people.** The model must not be called people-free.", ""]
    for weights in provenance.unknown:
        lines += [
            f"**It began with the weights `{weights}`, of whose training data this card knows nothing.** "
            "The model must not be called people-free.",
            "",
        ]
    lines += [
        f"- People-free by declaration: {clips['no-human']:,} clips of kind `no-human`.",
        f"- Rendered people: {clips['synthetic']:,} clips of kind `synthetic`.",
        "- The kind is what the corpus's maker declared when packing it. This card does not repeat an audit: ask for "
        "the corpus's own report of how people were removed and how many were found afterwards.",
        "",
        "## Results",
        "",
    ]
    if rows:
        lines += [
            "| task | protocol | top-1 % | 95 % interval | videos | seeds |",
            "|---|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['task']} | {PROTOCOLS[row['protocol']]} | {100 * row['top1']:.1f} | {100 * row['low']:.1f} to "
            f"{100 * row['high']:.1f} | {row['videos']} | {row['seeds']} |"
            for row in rows
        ]
    else:
        lines.append("None were measured in this run.")
    lines += [
        "",
        "## What is not claimed",
        "",
        "- That no person or face is left anywhere in the training data, nor that those removed can't be inferred.",
        "- That the weights hold nothing of any single video: they were not tested for membership inference.",
        "- That downstream data need no consent: probing or fine-tuning on videos of people is training on people.",
        "- That the results hold beyond the tasks and intervals above.",
    ]
    return "\n".join(lines) + "\n"


def _row(stage: str, corpus: str, about: dict[str, Any], seen: str, skipped: str) -> str:
    return (
        f"| {stage} | {corpus} | {about['kind']} | {about['samples']:,} | {seen} | {skipped} | {about['licence']} | "
        f"`{about['digest'][:16]}` |"
    )


def _use(config: Share, vit: ViTConfig) -> tuple[str, list[str]]:
    """What is in the folder beside the encoder, in words, and the lines of Python that load and use it."""
    clips = f"uint8 (N, 3, {vit.frames}, {vit.size}, {vit.size})"
    if config.what == "encoder":
        name, beside, call = "VideoViT", "", f"features = model(clips)  # {clips} -> (N, {vit.width})"
    elif config.what == "autoencoder":
        name, beside = "MaskedAutoencoder", ", with the decoder that it was trained with"
        call = f"loss = model(clips, visible, asked, ok)  # {clips}, and masks of understudy.models.mae.draw_masks"
    else:
        name, beside = "VideoClassifier", f", with its head for `{config.corpus}` (classes.json names its outputs)"
        call = f"logits = model(clips)  # {clips} -> (N, classes)"
    load = [f"from understudy.models import {name}", "", f'model = {name}.from_pretrained("THIS FOLDER").eval()']
    return beside, [*load, call]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such file; name what a recipe wrote, OUT/results.json")
    return json.loads(path.read_text())


if __name__ == "__main__":
    with told_in_one_line("share"):
        share(tyro.cli(Share))

"""The main job at its smallest, on two corpora of 5 shards each, and what it was trained on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from fake_readers import read_half_filled, read_moving_bar  # pyright: ignore[reportMissingImports]

from understudy.shards.pack import PackConfig, pack
from understudy.shards.sources import Source

CORPORA = ("bars", "lines")
CLASSES = ("walk", "run", "wave")
FLAGS = [
    *("--vit.frames=4", "--vit.size=32", "--vit.patch=8", "--vit.width=32", "--vit.depth=1", "--vit.heads=1"),
    *("--mae.decoder-width=16", "--mae.decoder-depth=1", "--mae.decoder-heads=1", "--probe.epochs=2", "--threads=2"),
    *("--stage1.steps=12", "--stage1.batch-size=8", "--stage2.steps=12", "--stage2.batch-size=8"),
    *("--log-every=1", "--save-every=2", "--precision=no"),
]


def make_corpora(root: Path) -> None:
    """Both of them, in folders of their names."""
    for name in CORPORA:
        config = PackConfig(
            name, "synthetic", CLASSES, "CC0-1.0", b"a secret for tests", short_side=80, samples_per_shard=8
        )
        sources = [Source(f"{name}/{i}", i % len(CLASSES)) for i in range(40)]
        pack(sources, partial(read_moving_bar, width=96, height=80), root / name, config, workers=0, progress=False)


def make_filled(root: Path) -> None:
    """`root/filled`: as `bars`, with the word that the left half of every frame was filled in."""
    config = PackConfig(
        "filled", "no-human", CLASSES, "CC0-1.0", b"a secret for tests", short_side=80, samples_per_shard=8
    )
    sources = [Source(f"bars/{i}", i % len(CLASSES)) for i in range(40)]
    read = partial(read_half_filled, width=96, height=80)
    pack(sources, read, root / "filled", config, workers=0, progress=False)


def arguments(where: object, out: Path) -> list[str]:
    """The job's command line, its corpora being `where/NAME`."""
    bars, lines = (f"{where}/{name}" for name in CORPORA)
    corpora = ["--mae-corpora", bars, "--align-corpora", bars, lines, "--probe-train", lines, "--probe-val", bars]
    return [*FLAGS, *corpora, "--out", str(out)]


def trained_on(out: Path) -> list[object]:
    """The ledgers of both stages, and every loss to the last bit."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["stage"], row["step"], row["loss"]) for row in rows]
    return [json.loads((out / stage / "ledger.json").read_text()) for stage in ("stage1", "stage2")] + losses

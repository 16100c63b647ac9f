"""Run by test_two_ranks.py under torch.distributed.run: CORPUS OUT; each rank writes what it saw to OUT/RANK.json."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from understudy.loader import Clip, ClipLoader, EvalLoader, EvalViews, LoaderSource, Views
from understudy.shards.corpus import Corpus


def main(root: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    corpus = Corpus.open(root)
    clip = Clip(4, 2, 16)
    seen: list[list[int]] = []
    pixels: list[str] = []
    with ClipLoader([LoaderSource(corpus)], clip, Views(2), 20, 5, threads=1) as clips:  # of the process group's ranks
        for _ in range(15):  # 150 samples: three epochs of 50
            batch = next(clips)
            gathered = [torch.empty_like(batch.clips) for _ in range(world_size)]
            dist.all_gather(gathered, batch.clips)
            seen.append(batch.ids[::2].tolist())
            pixels.append(hashlib.sha256(torch.cat(gathered).numpy().tobytes()).hexdigest())
        state = clips.state_dict()
    evaluated = [batch.ids.tolist() for batch in EvalLoader(corpus, clip, EvalViews(), 14, threads=1)]
    result = {"seen": seen, "pixels": pixels, "state": state, "evaluated": evaluated}
    (Path(out) / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

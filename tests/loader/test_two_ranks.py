from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.shards.corpus import Corpus


def test_two_processes_see_every_sample_once_in_the_order_of_one(corpus: Corpus, tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_ranks.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [*launch, str(script), str(corpus.root), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    seen = Counter(i for rank in ranks for step in rank["seen"] for i in step)
    assert seen == dict.fromkeys(range(50), 3)
    assert ranks[0]["state"] == ranks[1]["state"]
    with ClipLoader([LoaderSource(corpus)], Clip(4, 2, 16), Views(2), 20, 5, threads=2) as alone:
        for step in range(15):
            batch = next(alone)
            assert ranks[0]["seen"][step] + ranks[1]["seen"][step] == batch.ids[::2].tolist()
            pixels = hashlib.sha256(batch.clips.numpy().tobytes()).hexdigest()
            assert ranks[0]["pixels"][step] == ranks[1]["pixels"][step] == pixels
        assert alone.state_dict() == ranks[0]["state"]

    assert len(ranks[0]["evaluated"]) == len(ranks[1]["evaluated"])
    evaluated = Counter(i for rank in ranks for batch in rank["evaluated"] for i in batch if i != -1)
    assert evaluated == dict.fromkeys(range(50), 1)

"""What training draws must not change between versions: a checkpoint names a step, and the step must mean the same.

A change here breaks the resuming of runs. If it is meant, raise STATE_VERSION in loader/clips.py, name it in the change
log, and write the files anew: python tests/loader/test_golden.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.loader.order import Order
from understudy.loader.philox import stream_key
from understudy.loader.schedule import Schedule
from understudy.loader.views import Clip, Views, draw_training

GOLDEN = Path(__file__).parent / "golden"


def order_case(counts: list[int], samples_per_step: int, steps: list[int]) -> dict[str, Any]:
    order = Order("0123abcd", counts, 17, samples_per_step)
    sha = hashlib.sha256()
    for step in range(200):
        for column in order.step(step):
            sha.update(column.astype("<i8").tobytes())
    return {
        "counts": counts,
        "samples_per_step": samples_per_step,
        "lanes": order.lanes,
        "steps": {str(step): [column.tolist() for column in order.step(step)] for step in steps},
        "sha256_of_200_steps": sha.hexdigest(),
    }


def order() -> list[dict[str, Any]]:
    """Ids and visits at the start, where epochs meet, and far on; then a large step, and a corpus below one step."""
    return [
        order_case([5, 9, 8, 7, 10, 3, 8], 8, [0, 5, 6, 7, 99, 123456789]),
        order_case([100, 60, 0, 90, 110, 95, 40], 128, [3, 4]),
        order_case([4, 3], 12, [0, 1, 1000]),
    ]


def schedule() -> dict[str, Any]:
    made = Schedule([3, 1, 0.5], 17)
    return {"first": [made.at(step) for step in range(64)], "far": [made.at(10**6 + i) for i in range(8)]}


def draws() -> list[dict[str, Any]]:
    made = [
        draw_training(Clip(4, 2), Views(3, (0.2, 1.0)), 30, 340, 256, stream_key("views", "0123abcd", 17), i, visit)
        for i, visit in ((0, 0), (1, 0), (0, 1), (10**9, 10**6))
    ]
    return [{name: getattr(draw, name).tolist() for name in ("windows", "crops", "flips")} for draw in made]


@pytest.mark.parametrize("made", [order, schedule, draws])
def test_what_training_draws_is_what_it_was(made: Any) -> None:
    golden = json.loads((GOLDEN / f"{made.__name__}.json").read_text())
    assert json.loads(json.dumps(made())) == golden


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_golden_order_holds_at_every_world_size(world_size: int) -> None:
    golden = json.loads((GOLDEN / "order.json").read_text())[0]
    ranks = [Order("0123abcd", golden["counts"], 17, golden["samples_per_step"]) for _ in range(world_size)]
    for step, (ids, visits) in golden["steps"].items():
        parts = [made.step(int(step), rank, world_size) for rank, made in enumerate(ranks)]
        assert np.concatenate([part[0] for part in parts]).tolist() == ids
        assert np.concatenate([part[1] for part in parts]).tolist() == visits


if __name__ == "__main__":
    for made in (order, schedule, draws):
        (GOLDEN / f"{made.__name__}.json").write_text(json.dumps(made(), separators=(",", ":")) + "\n")

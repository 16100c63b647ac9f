"""The tables of docs/storage.md out of what storage.py and storage_faults.py wrote. Every number comes from there.

Run it without arguments: python benchmarks/storage_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from page import with_table

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "storage.md"


def fault_table(results: dict[str, Any]) -> str:
    """One row a fault, one column a target."""
    targets = list(results["rows"][0]["cells"])
    lines = [f"| fault | {' | '.join(targets)} |", "|---" * (1 + len(targets)) + "|"]
    for row in results["rows"]:
        lines.append(f"| {row['fault']} | {' | '.join(_cell(cell) for cell in row['cells'].values())} |")
    log = results["log"]
    return "\n".join(
        [
            *lines,
            "",
            f"{results['cells_as_they_should']} of {results['cells']} cells as they should be, with "
            f"{results['faults']} faults; silently wrong: {results['silently_wrong']}. The slowest end took "
            f"{results['slowest_end_seconds']:.0f} s. {log['credentials_looked_for']:,} key ids, secrets, tokens and "
            f"signatures were looked for in {log['megabytes']:.0f} MB of DEBUG logs and messages: "
            f"{log['credentials_found']} found.",
            "",
        ]
    )


def _cell(cell: dict[str, Any]) -> str:
    seconds = f"{cell['seconds']:.1f} s"
    if cell["outcome"] == "recovered":
        return f"same, {cell['faults']} fault{'s' * (cell['faults'] != 1)}, {seconds}"
    return f"{cell['outcome']}, {seconds}"


def storage_table(results: dict[str, Any]) -> str:
    """The clients side by side, and training from the bucket beside training from the folder."""
    lines = ["| client | MB/s | CPU s/GB | what it does with the bytes |", "|---|---:|---:|---|"]
    for row in results["clients"]:
        figures = [row.get(f"median_{key}", "-") for key in ("MB_per_second", "cpu_s_per_GB")]
        lines.append(f"| {row['client']} | {figures[0]} | {figures[1]} | {row.get('failed', row['note'])} |")
    training, loading = results["training"], results["loading"]
    lines += ["", "| demo job, stage 1 | clips/s | waiting for data | first batch after |", "|---|---:|---:|---:|"]
    for what, part in (("", training), (", loaded only", loading)):
        for place, figures in part["turns"].items():
            speed, share, first = (
                median(figures[key]) for key in ("samples_per_second", "data_share", "first_batch_seconds")
            )
            lines.append(f"| {place}{what} | {speed:,.0f} | {share:.1%} | {first:.2f} s |")
    return "\n".join(
        [
            *lines,
            "",
            f"Over the folder's clips/s, after the first batch: in training {_ratios(training)}; loaded only "
            f"{_ratios(loading)}. Medians and intervals of {len(training['turns']['folder']['sequence'])} rounds, the "
            "same samples in the same order. The first batch of a cold start comes "
            f"{training['first_batch_seconds_over_folder_and_one_fetch']:+.2f} s after the folder's plus one shard's "
            f"fetch ({training['one_shard_fetch_seconds']:.2f} s).",
            "",
        ]
    )


def _ratios(part: dict[str, Any]) -> str:
    return " and ".join(
        f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}) from the {place}"
        for place, ratio in part["speed_ratios"].items()
    )


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    for name, make in (("faults", fault_table), ("storage", storage_table)):
        page = with_table(page, name, make(json.loads((HERE / "results" / f"{name}.json").read_bytes())))
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

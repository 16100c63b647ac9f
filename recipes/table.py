"""Results of transfer as a Markdown table, for the terminal and for documents."""

from __future__ import annotations

from typing import Any

PROTOCOLS = {
    "finetune": "fine-tuning",
    "linear": "linear",
    "attentive": "attentive",
    "online": "online linear",
    "joint": "joint head",
}


def results_table(results: dict[str, Any]) -> str:
    """A line for each model and protocol of each task: top-1 with interval, top-5, class mean, the paired difference to
    the first model, and the learning rate. In per cent.
    """
    lines = [
        "| task | protocol | model | top-1 % | 95 % interval | less the first | top-5 % | class mean | seeds | rate |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    differences = {(row["task"], row["protocol"], row["model"]): row for row in results["differences"]}
    for row in results["rows"]:
        key = row["task"], row["protocol"], row["model"]
        less = differences.get(key)
        told = ""
        if less:
            mean, low, high = (format(100 * less[end], "+.1f") for end in ("difference", "low", "high"))
            told = f"{mean} ({low} to {high})"
        failed = f", {len(row['failed'])} failed" if row["failed"] else ""
        few = f", {row['groups']} groups" if row.get("groups", row["videos"]) < row["videos"] else ""
        interval = f"{_percent(row, 'low')} to {_percent(row, 'high')}{few}{failed}"
        cells = [row["task"], PROTOCOLS[row["protocol"]], row["model"], _percent(row, "top1"), interval, told]
        cells += [_percent(row, "top5"), _percent(row, "class_mean"), str(row["seeds"]), f"{row['rate']:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(row: dict[str, Any], key: str) -> str:
    return f"{100 * row[key]:.1f}"

"""Results of the main job and of transfer as a Markdown table, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PROTOCOLS = {
    "finetune": "fine-tuning",
    "linear": "linear",
    "attentive": "attentive",
    "online": "online linear",
    "joint": "joint head",
}
LESS = "less the first"
TEXTS = ("task", "protocol", "model")  # to the left; the others are numbers
TRANSFER = ("task", "protocol", "model", "top-1 %", "95 % interval", LESS, "top-5 %", "class mean", "seeds", "rate")
PRETRAINING = ("model", "task", "top-1 %", "95 % interval", "steps", "clips/s in training", "waiting for data")


def results_table(results: dict[str, Any], columns: Sequence[str] = TRANSFER) -> str:
    """A line for each model and protocol of each task, in per cent. Paired differences to the first model are a column
    where `columns` have it, else lines of their own.
    """
    alignment = ["---" if column in TEXTS else "---:" for column in columns]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(alignment)}|"]
    # Of several of one model, that to the first model comes first.
    differences = {(row["task"], row["protocol"], row["model"]): row for row in reversed(results["differences"])}
    for row in results["rows"]:
        failed = f", {len(row['failed'])} failed" if row["failed"] else ""
        few = f", {row['groups']} groups" if row.get("groups", row["videos"]) < row["videos"] else ""
        told = f"{_interval(row)}{few}{failed}"
        cells = {"top-1 %": _percent(row, "top1"), "95 % interval": told, **_about(row)}
        if less := differences.get((row["task"], row["protocol"], row["model"])):
            cells[LESS] = f"{_percent(less, 'difference', '+')} ({_interval(less, '+')})"
        lines.append(_line(cells, columns))
    of = {(row["task"], row["protocol"], row["model"]): row for row in results["rows"]}
    for row in [] if LESS in columns else results["differences"]:
        cells = _about(of[row["task"], row["protocol"], row["model"]]) | {"model": f"{row['model']} - {row['minus']}"}
        cells |= {"top-1 %": _percent(row, "difference", "+"), "95 % interval": _interval(row, "+")}
        lines.append(_line(cells, columns))
    return "\n".join(lines)


def _about(row: dict[str, Any]) -> dict[str, str]:
    """What a row says beside its accuracy, by column."""
    speed, share = row.get("train_samples_per_second"), row.get("data_share")
    return {
        "task": row["task"],
        "protocol": PROTOCOLS[row["protocol"]],
        "model": row["model"],
        LESS: "",
        "top-5 %": _percent(row, "top5"),
        "class mean": _percent(row, "class_mean"),
        "seeds": str(row["seeds"]),
        "rate": f"{row['rate']:g}",
        "steps": str(row.get("steps", "-")),
        "clips/s in training": "-" if speed is None else f"{speed:.0f}",
        "waiting for data": "-" if share is None else f"{share:.1%}",
    }


def _line(cells: dict[str, str], columns: Sequence[str]) -> str:
    return f"| {' | '.join(cells[column] for column in columns)} |"


def _interval(row: dict[str, Any], sign: str = "") -> str:
    return f"{_percent(row, 'low', sign)} to {_percent(row, 'high', sign)}"


def _percent(row: dict[str, Any], key: str, sign: str = "") -> str:
    return format(100 * row[key], f"{sign}.1f")

"""The tables of docs/storage.md are those of the results beside the benchmarks, and would show what had gone wrong."""

from __future__ import annotations

import copy
import json

import storage_tables  # pyright: ignore[reportMissingImports]


def test_the_page_shows_what_was_measured() -> None:
    page = storage_tables.PAGE.read_text(encoding="utf-8")
    assert storage_tables.with_tables(page) == page, "run python benchmarks/storage_tables.py"


def test_a_cell_that_went_wrong_is_shown_so() -> None:
    results = json.loads((storage_tables.HERE / "results" / "faults.json").read_bytes())
    bad = copy.deepcopy(results)
    bad["rows"][0]["cells"]["cache"]["outcome"] = "SILENTLY WRONG"
    assert "SILENTLY WRONG" not in storage_tables.fault_table(results)
    assert "SILENTLY WRONG" in storage_tables.fault_table(bad)

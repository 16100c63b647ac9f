"""Markdown pages whose tables are made from results: each lies between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

from understudy.shards.errors import UserError


def with_table(page: str, name: str, table: str) -> str:
    """The page with `table`, which ends with a newline, in its place. Raises UserError where the page has none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, began, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (began and ended):
        raise UserError(f"the page has no lines {begin.strip()} and {end}; put them where the table goes")
    return before + begin + table + end + after

"""`understudy card`: the papers that go with a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from understudy.shards.errors import UserError
from understudy.shards.remote import parse_address


@dataclass(frozen=True)
class Card:
    """Write the dataset card README.md, datasheet.md, croissant.json and the clips.csv that it needs.

    They are made from manifest, removal record and audit.
    """

    corpus: Annotated[str, tyro.conf.Positional, arg(metavar="CORPUS")]
    """The corpus: a folder, s3://bucket/prefix or https://host/path."""
    url: str = "https://example.org/dataset"
    """Address of the page at which it is published."""
    creator: str = "unknown"
    """Who publishes it."""
    date: Annotated[str | None, arg(metavar="YYYY-MM-DD", help_behavior_hint="(default: today)")] = None
    """Day of publication."""
    out: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the corpus)")] = None
    """Existing folder for the papers; required for a corpus that is not a local folder."""
    overwrite: bool = False
    """Overwrite existing papers, which somebody may have filled in."""

    def run(self) -> None:
        """Do it, and say where they lie."""
        import datetime
        import json

        from understudy.privacy.card import check_unwritten, dataset_card, datasheet, gather
        from understudy.privacy.card_croissant import clip_table, croissant
        from understudy.shards.beside import PAPERS
        from understudy.shards.corpus import Corpus
        from understudy.shards.files import write_atomic

        root = parse_address(self.corpus)
        if self.out is None and not isinstance(root, Path):
            raise UserError(f"{root}: lies elsewhere; name a folder for its papers with --out")
        out = self.out or Path(self.corpus)
        facts = gather(root)
        if not out.is_dir():
            raise UserError(f"{out}: no such folder for the papers; make it first")
        try:
            date = datetime.date.fromisoformat(self.date) if self.date else datetime.datetime.now(datetime.UTC).date()
        except ValueError:
            raise UserError(f"--date {self.date}: say a day as YYYY-MM-DD") from None
        table = clip_table(Corpus.open(root))
        body = croissant(facts, table, url=self.url, creator=self.creator, date=date.isoformat())
        sheets = (dataset_card(facts), datasheet(facts), json.dumps(body, indent=1) + "\n")
        papers = dict(zip(PAPERS, (*(sheet.encode() for sheet in sheets), table), strict=True))
        check_unwritten(out, self.overwrite, tuple(papers))
        for name, content in papers.items():
            write_atomic(out / name, content)
            print(out / name)

"""`understudy lint`: every byte of a corpus against its digests and indexes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from understudy.shards.remote import parse_address


@dataclass(frozen=True)
class Lint:
    """Re-read every byte of a corpus. Lists what is wrong, one finding per line; exit status 1 if there is any."""

    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
    """The corpus: a folder, s3://bucket/prefix or https://host/path."""
    decode: bool = False
    """Also decode every frame."""

    def run(self) -> None:
        """Do it."""
        from understudy.shards.lint import lint

        report = lint(parse_address(self.corpus), decode=self.decode)
        for finding in report.findings:
            print(finding)
        print(f"{self.corpus}: {report.summary}")
        for note in report.notes:
            print(f"note: {note}")
        if report.findings:
            sys.exit(1)

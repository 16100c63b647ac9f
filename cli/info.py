"""`understudy info`: what a corpus holds, and what decodes here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from understudy.shards.remote import parse_address


@dataclass(frozen=True)
class Info:
    """Show what is in a corpus, and which decoder the loader uses on this machine."""

    corpus: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[CORPUS]")] = None
    """The corpus: a folder, s3://bucket/prefix or https://host/path. Without one, only the decoder is shown."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print it."""
        from json import dumps

        from understudy.shards.info import as_text, describe

        description = describe(parse_address(self.corpus)) if self.corpus else None
        from understudy.loader.native import native_kernels, native_status  # takes seconds: not before an error

        if self.json:
            found = asdict(description) if description else {}
            found |= {"decoder": native_status(), "kernels": native_kernels()}
            print(dumps(found, indent=1, ensure_ascii=False))
            return
        if description:
            print(as_text(description), end="\n\n")
        print(f"decoder: {native_status()}")

"""The `understudy` command: picks the verb, and turns what users can mend into one line and exit status 2."""

from __future__ import annotations

import io
import os
import sys
from typing import Union

import tyro

from understudy.cli.audit import Audit
from understudy.cli.card import Card
from understudy.cli.demo import Demo
from understudy.cli.info import Info
from understudy.cli.lint import Lint
from understudy.cli.pack import Pack
from understudy.cli.preview import Preview
from understudy.cli.profile import Profile
from understudy.cli.remove_people import RemovePeople
from understudy.shards.errors import UserError

Verb = Union[Demo, Pack, RemovePeople, Lint, Info, Preview, Profile, Audit, Card]  # noqa: UP007 (tyro reads the union at run time)


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        print(f"understudy {version('understudy')}")
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8, as stderr does
    verb = tyro.cli(Verb, prog="understudy", description="Video pre-training without real people in the data.")
    try:
        verb.run()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> None:
    print("understudy:", message.replace("\n", "\\n"), file=sys.stderr)  # one line, whatever is in a file name
    sys.exit(2)

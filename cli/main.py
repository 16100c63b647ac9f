"""The `understudy` command: picks the verb, and turns what users can mend into one line and exit status 2.

A verb's module, and tyro, are imported where that verb is asked for alone: to list the verbs takes neither.
"""

from __future__ import annotations

import io
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from understudy.shards.errors import UserError

VERBS = {
    "demo": "Generate four small corpora to try things out; nothing is downloaded.",
    "pack": "Pack videos into a corpus of shards.",
    "remove-people": "Remove people from videos.",
    "lint": "Re-read every byte of a corpus, and list what is wrong.",
    "info": "Show what is in a corpus, and which decoder this machine uses.",
    "preview": "Draw a contact sheet of a corpus.",
    "profile": "Time each stage of the loader, and show which one is the bottleneck.",
    "audit": "Look for people left in a corpus, and for everything that is not pixels.",
    "card": "Write a corpus's dataset card, datasheet and croissant.json.",
}


def main() -> None:
    """Entry point of the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8, as stderr does
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(f"understudy {version('understudy')}")
    elif not arguments or arguments[0] in ("--help", "-h"):
        print(_help())
        sys.exit(0 if arguments else 2)
    elif arguments[0] in VERBS:
        _run(arguments[0], arguments[1:])
    else:
        likely = get_close_matches(arguments[0], VERBS, n=1)
        meant = f"did you mean {likely[0]}?" if likely else f"say one of {', '.join(VERBS)}"
        _fail(f"no verb {arguments[0]!r}; {meant}")


def _run(name: str, arguments: list[str]) -> None:
    import tyro

    module = import_module(f"understudy.cli.{name.replace('-', '_')}")
    kind: type[Any] = getattr(module, name.title().replace("-", ""))
    verb = tyro.cli(kind, prog=f"understudy {name}", args=arguments)
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


def _help() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: understudy VERB ...",
            "",
            "Video pre-training without real people in the data.",
            "",
            *(f"  {name:{width}}  {does}" for name, does in VERBS.items()),
            "",
            "understudy VERB --help shows a verb's options, understudy --version the version; docs/ has the guides.",
        ]
    )


def _fail(message: str) -> NoReturn:
    print("understudy:", message.replace("\n", "\\n"), file=sys.stderr)  # one line, whatever is in a file name
    sys.exit(2)

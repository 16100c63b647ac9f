"""Every fault of a network or a store x {fetch, cache, loader, main job}: what comes of it, with the waits of real use.

    python benchmarks/storage_faults.py --out benchmarks/results/faults.json

starts Ceph's S3 gateway on loopback (tests/storage/rgw.sh), stores two small corpora there and reads them through a
proxy that misbehaves (tests/helpers/faults.py). What comes through is compared with what a folder gives; all logs, at
DEBUG, and all messages are searched for the key id, secret, token and signatures. Exit status 1 if any cell is not as
it should be. About ten minutes, most of it spent waiting for a store that is silent.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from faults import ENDED, RECOVERED, Fault, FaultServer
from s3_server import Gateway, s3_server
from storage import machine
from tiny_job import CORPORA, arguments, make_corpora, trained_on

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.recipes.mixed import command_line
from understudy.recipes.mixed import main as main_job
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import fetch
from understudy.shards.files import write_atomic
from understudy.shards.publish import publish
from understudy.shards.redact import protect_logs
from understudy.shards.remote import Remote

PREFIX = "s3://corpora/faults"
LONGEST_S = 60  # that a job which can't go on may take to say so
STRUCK = r"bars-000001\.tar$"  # the one that is replaced


@dataclass(frozen=True)
class Case:
    """A row of the table. `words` is a pattern of the line that it has to end in; None where it is recovered."""

    name: str
    fault: Fault
    words: str | None


def cases(gateway: Gateway, root: Path) -> list[Case]:
    """All of them; those with an object that is replaced do so in earnest."""
    same = (root / "bars" / "bars-000001.tar").read_bytes()

    def put(body: bytes) -> Callable[[], object]:
        return lambda: gateway.client.put_object(Bucket="corpora", Key="faults/bars/bars-000001.tar", Body=body)

    again = Fault("reset", after=20_000, path=STRUCK, action=put(same))
    other = Fault("reset", after=20_000, path=STRUCK, times=-1, action=put(same[::-1]))
    return [
        *(Case(name, replace(fault, path=r"\.tar$"), None) for name, fault in RECOVERED.items()),
        Case("replaced by the same while it is read", again, None),
        *(Case(name, replace(fault, path=r"\.tar$"), words) for name, (fault, words) in ENDED.items()),
        Case("replaced by another while it is read", other, "do not fit the digest in the manifest, twice"),
    ]


# Targets: each reads from `where` and returns what is to be the same as from a folder. `work` is new and empty.


def fetched(where: str, work: Path) -> object:
    corpus, sink = Corpus.open(f"{where}/bars"), io.BytesIO()
    if corpus.cache is None:
        return corpus.shard_path(1).read_bytes()
    fetch(corpus.shard_blob(1), sink)
    return sink.getvalue()


def cached(where: str, work: Path) -> object:
    corpus = Corpus.open(f"{where}/bars")
    if corpus.cache is None:
        return corpus.shard_path(1).read_bytes()
    with os.fdopen(Cache(work / "cache", 10**9).open(corpus.shard_blob(1)), "rb") as file:
        return file.read()


def loaded(where: str, work: Path) -> object:
    sha = hashlib.sha256()
    source = LoaderSource(Corpus.open(f"{where}/bars"))
    with ClipLoader([source], Clip(4, 2, 16), Views(2, scale=(0.5, 1.0)), 16, 3, threads=2) as loader:
        for _ in range(6):  # more than an epoch
            batch = next(loader)
            for part in (batch.ids, batch.labels, batch.ok, batch.clips):
                sha.update(part.numpy().tobytes())
    return sha.hexdigest()


def trained(where: str, work: Path) -> object:
    main_job(command_line(arguments(where, work / "out")))
    return trained_on(work / "out")


TARGETS: dict[str, Callable[[str, Path], object]] = {
    "fetch": fetched,
    "cache": cached,
    "loader": loaded,
    "main job": trained,
}


def run_cell(case: Case, target: str, expected: object, proxy: FaultServer, folder: Path) -> dict[str, Any]:
    """One cell: what came of it, and whether that is as it should be."""
    work = Path(tempfile.mkdtemp(dir=folder))
    os.environ["UNDERSTUDY_CACHE"] = str(work / "node")
    proxy.set(case.fault)
    signal.alarm(3 * LONGEST_S)
    began = time.monotonic()
    line = ""
    try:
        outcome = "recovered" if TARGETS[target](PREFIX, work) == expected else "SILENTLY WRONG"
    except UserError as error:
        outcome, line = "ended", str(error)
    except Exception as error:
        outcome, line = "CRASHED", repr(error)
    finally:
        signal.alarm(0)
    seconds = time.monotonic() - began
    shutil.rmtree(work)
    struck = sum(bool(request.fault) for request in proxy.requests)
    good = outcome == "recovered" if case.words is None else outcome == "ended" and seconds <= LONGEST_S
    good = good and "\n" not in line and re.search(case.words or "", line) is not None
    return {
        "outcome": outcome,
        "as_it_should": bool(good and struck),
        "faults": struck,
        "gets": sum(request.method == "GET" and request.path.endswith(".tar") for request in proxy.requests),
        "seconds": round(seconds, 2),
        **({"line": line} if line else {}),
    }


def run_table(gateway: Gateway, work: Path) -> dict[str, Any]:
    root, log, said = work / "folder", work / "debug.log", ""
    make_corpora(root)
    protect_logs()
    handler = logging.FileHandler(log)
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    rows: list[dict[str, Any]] = []
    with FaultServer(gateway.host) as proxy:
        os.environ |= {
            "AWS_ENDPOINT_URL": proxy.address,
            "AWS_ACCESS_KEY_ID": gateway.key,
            "AWS_SECRET_ACCESS_KEY": gateway.secret,
            "AWS_SESSION_TOKEN": gateway.token,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        expected: dict[str, object] = {}
        for name, target in TARGETS.items():
            (work / "expected").mkdir()
            expected[name] = target(str(root), work / "expected")
            shutil.rmtree(work / "expected")
        for case in cases(gateway, root):
            cells: dict[str, Any] = {}
            for target in TARGETS:
                for name in CORPORA:  # after an object was replaced, it is put back
                    gateway.client.delete_object(Bucket="corpora", Key=f"faults/{name}/manifest.json")
                    proxy.set(None)
                    publish(root / name, Remote(f"{PREFIX}/{name}"), progress=False)
                cell = cells[target] = run_cell(case, target, expected[target], proxy, work)
                said += cell.get("line", "")
                mark = "" if cell["as_it_should"] else f"   <-- not as it should be: {cell}"
                print(f"{case.name}, {target}: {cell['outcome']} in {cell['seconds']} s{mark}", file=sys.stderr)
            rows.append({"fault": case.name, "should_be": "ended" if case.words else "recovered", "cells": cells})
        secrets = {gateway.key, gateway.secret, gateway.token, gateway.token.replace("/", "%2F"), *proxy.signatures}
    handler.flush()
    text = log.read_text() + said + json.dumps(rows)
    logging.getLogger().removeHandler(handler)
    cells = [cell for row in rows for cell in row["cells"].values()]
    return {
        "benchmark": "faults",
        "rows": rows,
        "cells": len(cells),
        "cells_as_they_should": sum(cell["as_it_should"] for cell in cells),
        "faults": sum(cell["faults"] for cell in cells),
        "silently_wrong": sum(cell["outcome"] == "SILENTLY WRONG" for cell in cells),
        "slowest_end_seconds": max(cell["seconds"] for cell in cells if cell["outcome"] == "ended"),
        "log": {
            "megabytes": round(len(text) / 1e6, 1),
            "signed_requests_logged": text.count("Calculating signature"),
            "credentials_looked_for": len(secrets),
            "credentials_found": sum(secret in text for secret in secrets),
        },
        **machine(),
    }


def overdue(*_: object) -> None:
    raise TimeoutError("no end in sight")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, overdue)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder) / "rgw") as gateway:
        results = run_table(gateway, Path(folder))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, (json.dumps(results, indent=1) + "\n").encode())
    good = results["cells_as_they_should"] == results["cells"] and not results["log"]["credentials_found"]
    print(f"{results['cells_as_they_should']} of {results['cells']} cells as they should be; {results['log']}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

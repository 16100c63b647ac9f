"""A child that is forked inherits all open files with their locks, and sockets: it must neither hold the cache nor mix
up answers, however long it lives. Each in a process of its own: pytest's has threads that a fork would break.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import FaultServer  # pyright: ignore[reportMissingImports]

from understudy.shards.corpus import Corpus

START = """
import os, signal, sys, time
from pathlib import Path
from understudy.loader.read import ShardReader
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.fetch import fetch_text
from understudy.shards.remote import Remote

address, folder, children = sys.argv[1], Path(sys.argv[2]), []

def fork(act=lambda: None):
    child = os.fork()
    if not child:
        try:
            act()
            time.sleep(60)
        finally:
            os._exit(0)
    children.append(child)
"""
END = """
for child in children:
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "it lived all the while"
    os.kill(child, signal.SIGKILL)
print("well")
"""

AT_THE_WORST_MOMENT = """
allocate = os.posix_fallocate

def fork_first(*arguments):  # while the accounts and a download are locked
    if len(children) < 2:
        fork()
    return allocate(*arguments)

os.posix_fallocate = fork_first
corpus = Corpus.open(address)
largest = max(shard.filesize for shard in corpus.manifest.shards)
cache = Cache(folder, 2 * largest)
for number in range(len(corpus.manifest.shards)):
    os.close(cache.open(corpus.shard_blob(number)))
assert len(children) == 2
"""

WITH_SHARDS_OPEN = """
largest = max(shard.filesize for shard in Corpus.open(address).manifest.shards)
corpus = Corpus.open(address, Cache(folder, 3 * largest))
reader = ShardReader(corpus, 2)
firsts = [int((corpus.shard == number).argmax()) for number in range(len(corpus.manifest.shards))]

def read(samples):
    for sample in samples:
        assert reader.read(sample)[1] is None

read(firsts[:2])
fork()
if not (child := os.fork()):  # which opens for itself what its parent has open
    read(firsts[:2])
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
read(firsts)
"""

ON_ONE_CONNECTION = """
import http.server, threading

class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # says from which port it was asked
        body = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
asked = Remote(f"http://127.0.0.1:{server.server_port}/port")
port = fetch_text(asked)
assert fetch_text(asked) == port, "connections are kept"
fork(lambda: (folder / "port").write_bytes(fetch_text(asked)))
while not (folder / "port").exists() or not (folder / "port").read_bytes():
    time.sleep(0.01)
assert (folder / "port").read_bytes() != port
assert fetch_text(asked) == port
"""


@pytest.fixture(scope="module")
def server(build: Callable[..., Corpus], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    root = tmp_path_factory.mktemp("served")
    build(root / "tiny", [2] * 6)
    with FaultServer(root) as server:
        yield server


@pytest.mark.parametrize("program", [AT_THE_WORST_MOMENT, WITH_SHARDS_OPEN, ON_ONE_CONNECTION])
def test_a_forked_child_that_lives_on_disturbs_nobody(server: FaultServer, tmp_path: Path, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + program + END, f"{server.address}/tiny", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("well\n", "")

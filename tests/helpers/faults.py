"""A loopback web server that misbehaves on demand: in front of a folder, or of another server.

Of a folder it serves files with ranges and ETags, also as S3 does (`/bucket/key`, errors in XML, nobody's signature
checked). In front of a server it passes on what is asked and answered, so that signatures hold.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ERRORS = {  # mode: status, code
    "503": (503, "SlowDown"),
    "500": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "unknown-key": (403, "InvalidAccessKeyId"),
    "wrong-secret": (403, "SignatureDoesNotMatch"),
    "no-bucket": (404, "NoSuchBucket"),
}
CUTS = {"reset", "close", "stall", "short", "no-length", "replaced"}  # end the body after `after` bytes
PART = re.compile(r"bytes=\d+-\d+")
MODES = sorted({*ERRORS, *CUTS, "slow", "trickle", "flip", "no-range"})


@dataclass
class Fault:
    """What happens to the next `times` GETs (-1: all) of paths that match, with bodies of `smallest` bytes or more."""

    mode: str
    times: int = 1
    after: int = 0
    path: str = ""
    smallest: int = 1
    parts: bool = False  # only to requests with a range that has an end
    seconds: float = 30.0  # of a stall
    rate: float = 400_000.0  # bytes a second of a slow body
    replacement: str = ""  # the path that is served instead from then on
    action: Callable[[], object] = bool  # done when it happens, such as replacing the object in earnest
    then: Fault | None = None  # when the times are over


# What a stream survives; objects of any size over `after` bytes.
RECOVERED = {
    "reset": Fault("reset", after=20_000, times=3),
    "reset, always": Fault("reset", after=20_000, times=-1),
    "early close": Fault("close", after=20_000, times=3),
    "early close, always": Fault("close", after=20_000, times=-1),
    "503": Fault("503", times=3),
    "500": Fault("500", times=3),
    "expired token": Fault("expired"),
    "stall": Fault("stall", after=20_000),
    "slow, always": Fault("slow", rate=1_000_000, times=-1),
    "flipped bit": Fault("flip", after=20_000),
    "short length": Fault("short", after=20_000, times=3),
    "short length, always": Fault("short", after=20_000, times=-1),
    "no length": Fault("no-length", after=20_000, times=3),
    "no length, always": Fault("no-length", after=20_000, times=-1),
}
# What ends it, and a pattern of the line that it ends in.
ENDED = {
    "503, always": (Fault("503", times=-1), "the server answers 503.*gave up"),
    "500, always": (Fault("500", times=-1), "the server answers 500.*gave up"),
    "expired token, always": (Fault("expired", times=-1), "the credentials have expired; renew them"),
    "stall, always": (Fault("stall", times=-1), "no byte came for .*gave up"),
    "trickle, always": (Fault("trickle", times=-1), "less than 20 kB a second came for .*gave up"),
    "flipped bit, always": (Fault("flip", after=9, times=-1), "do not fit the digest in the manifest, twice"),
    "access denied": (Fault("denied", times=-1), "access denied; check AWS_PROFILE"),
}


@dataclass
class Request:
    """What was asked and answered; `sent` bytes of body. `key` is the id of the key that it was signed with."""

    method: str
    path: str
    range: str
    if_match: str
    status: int = 0
    fault: str = ""
    sent: int = 0
    key: str = ""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    reason: str = ""


@dataclass
class FaultServer:
    """Use it as a context manager. `backend` is a folder or `host:port`."""

    backend: Path | str
    fault: Fault | None = None
    requests: list[Request] = field(default_factory=list)
    signatures: set[str] = field(default_factory=set)  # of all requests ever

    def __enter__(self) -> FaultServer:
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._replaced: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                server._handle(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that hang up

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def set(self, fault: Fault | None) -> None:
        """From now on this fault, no replacements, and an empty list of requests."""
        with self._lock:
            self.fault = fault and replace(fault)
            self.requests.clear()
            self._replaced.clear()

    def downloads(self, ending: str = ".tar") -> list[Request]:
        """The GETs of whole objects whose paths have this ending, and of all that is left of one, so far."""
        gets = [r for r in self.requests if r.method == "GET" and r.path.endswith(ending)]
        return [r for r in gets if not PART.fullmatch(r.range)]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        request = Request(handler.command, path, handler.headers.get("Range", ""), handler.headers.get("If-Match", ""))
        signed = handler.headers.get("Authorization", "")
        request.key = "".join(re.findall("Credential=([^/]+)", signed))
        with self._lock:
            self.requests.append(request)
            self.signatures.update(re.findall("Signature=([0-9a-f]+)", signed))
            asked = handler.path.replace(path, self._replaced.get(path, path))
        answer = self._from_folder(handler, asked) if isinstance(self.backend, Path) else self._pass_on(handler, asked)
        fault = self._strike(request, answer)
        if fault is not None:
            request.fault = fault.mode
            fault.action()
        if fault is not None and fault.mode in ERRORS:
            answer = xml_error(*ERRORS[fault.mode])
        if fault is not None and fault.mode == "no-range":
            answer = self._from_folder(handler, asked, ranges=False)
        request.status = answer.status
        self._send(handler, request, answer, fault)

    def _strike(self, request: Request, answer: Answer) -> Fault | None:
        with self._lock:
            fault = self.fault
            if fault is None or fault.times == 0 or request.method != "GET" or answer.status not in (200, 206):
                return None
            if not re.search(fault.path, request.path) or len(answer.body) < fault.smallest:
                return None
            if fault.parts and not PART.fullmatch(request.range):
                return None
            fault.times -= 1
            if fault.times == 0 and fault.then is not None:
                self.fault = replace(fault.then)
            if fault.replacement:
                self._replaced[request.path] = fault.replacement
            return fault

    def _from_folder(self, handler: BaseHTTPRequestHandler, path: str, ranges: bool = True) -> Answer:
        assert isinstance(self.backend, Path)
        file = self.backend / path.partition("?")[0].lstrip("/")
        if handler.command not in ("GET", "HEAD"):
            return Answer(405, {})
        if not file.is_file():
            return xml_error(404, "NoSuchKey")
        data = file.read_bytes()
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if handler.headers.get("If-Match", etag) != etag:
            return xml_error(412, "PreconditionFailed")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if not found or not ranges:
            return Answer(200, {"ETag": etag, "Content-Length": str(len(data))}, data)
        start = int(found[1])
        if start >= len(data):
            return xml_error(416, "InvalidRange")
        body = data[start : int(found[2]) + 1 if found[2] else None]
        told = {"ETag": etag, "Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(data)}"}
        return Answer(206, {**told, "Content-Length": str(len(body))}, body)

    def _pass_on(self, handler: BaseHTTPRequestHandler, path: str) -> Answer:
        assert isinstance(self.backend, str)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.backend, timeout=60)
        try:
            connection.putrequest(handler.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = {n: v for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")}
            data = answer.read()
            if handler.command != "HEAD":
                headers["Content-Length"] = str(len(data))
            return Answer(answer.status, headers, data, answer.reason)
        finally:
            connection.close()

    def _send(self, handler: BaseHTTPRequestHandler, request: Request, answer: Answer, fault: Fault | None) -> None:
        mode = fault.mode if fault else ""
        body = b"" if handler.command == "HEAD" else answer.body
        if fault and mode == "flip":
            body = body[: fault.after] + bytes([body[fault.after] ^ 1]) + body[fault.after + 1 :]
        if fault and mode in CUTS:
            body = body[: fault.after]
        headers = {name.title(): value for name, value in answer.headers.items()}
        if mode == "short":
            headers["Content-Length"] = str(len(body))
        if mode == "no-length":
            del headers["Content-Length"]
            headers["Connection"] = "close"
        handler.send_response(answer.status, answer.reason or None)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        pause, step = 0.0, 1 << 16
        if fault and mode == "slow":
            step = 1 << 14
            pause = step / fault.rate
        if mode == "trickle":
            pause, step = 0.2, 100
        for start in range(0, len(body), step):
            request.sent += len(body[start : start + step])  # first: who has the last byte may look here at once
            handler.wfile.write(body[start : start + step])
            if pause and self._closing.wait(pause):
                break
        if mode in CUTS - {"short"}:
            handler.close_connection = True
        if fault and mode == "stall":
            self._closing.wait(fault.seconds)
        if mode in ("reset", "replaced"):
            time.sleep(0.02)  # let what was sent arrive
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()


def xml_error(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, in other words</Message></Error>'.encode()
    return Answer(status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)

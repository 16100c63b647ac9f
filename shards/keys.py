"""Sample keys that can't be turned back into source names, and the secret that they hang on.

The secret stays outside every corpus: who holds it can link a key to a source, nobody else can.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from understudy.shards.errors import UserError

MINIMUM_SECRET_BYTES = 16


def sample_key(secret: bytes, source_id: str) -> str:
    """The 32 hex digits that name a sample: HMAC-SHA256 of the source id, cut to 128 bits.

    Ids made from file names that are not UTF-8 carry surrogate escapes; their raw bytes are hashed.
    """
    return hmac.new(secret, os.fsencode(source_id), hashlib.sha256).hexdigest()[:32]


def default_secret_path() -> Path:
    """`understudy/secret` in XDG_CONFIG_HOME, by default ~/.config."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "understudy" / "secret"


def load_secret(path: Path) -> tuple[bytes, bool]:
    """The secret in file `path`, and whether it was made just now (32 random bytes as hex, mode 0600).

    Raises UserError where the file can't be read or holds fewer than 16 bytes.
    """
    created = not path.exists() and _create_secret(path)
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"{path}: can't read the secret ({error.strerror}); name another with --secret-file") from None
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise UserError(
            f"{path}: a secret of {len(secret)} bytes can be guessed, {MINIMUM_SECRET_BYTES} are the least; "
            "delete the file to have one made"
        )
    return secret, created


def _create_secret(path: Path) -> bool:
    """Make the file whole or not at all; False where another process was quicker, whose secret then counts."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename, this does not replace what another process made
        finally:
            temporary.unlink()
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            return False
        raise UserError(f"{path}: can't make a secret ({error.strerror}); name a place with --secret-file") from None
    return True

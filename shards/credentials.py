"""What signs requests to S3: credentials as botocore finds them, used until they have really expired.

botocore asks for new ones at each request of their last quarter of an hour, and then one empty answer of a machine's
metadata service is an error, though the old ones would still do.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from understudy.shards.redact import hide
from understudy.shards.remote import ExpiredError

ATTEMPTS = 3  # at a machine's metadata service; botocore makes one
AGAIN_S = 10.0  # until it is asked again, where the old credentials will do: an answer that does not come takes seconds


class Lasting:
    """Stands in for botocore's credentials `source` in its clients; may be used from several threads."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._last: Any = None
        self._again_s = 0.0
        self._lock = threading.Lock()

    def get_frozen_credentials(self) -> Any:
        """New ones if need be, or the last ones while they are good. Raises ExpiredError or what botocore raises."""
        from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore[reportMissingTypeStubs]

        with self._lock:
            if self._last is not None and time.monotonic() < self._again_s and not self._expired():
                return self._last
            try:
                frozen = self._source.get_frozen_credentials()
            except RuntimeError:  # botocore's for new ones that have expired already
                raise ExpiredError("the credentials have expired") from None
            except (BotoCoreError, ClientError):
                if self._last is None or self._expired():
                    raise
                self._again_s = time.monotonic() + AGAIN_S
                return self._last
            if frozen != self._last:
                hide(frozen.access_key, frozen.secret_key, frozen.token)
            self._last = frozen
            return frozen

    def _expired(self) -> bool:
        return self._source.refresh_needed(refresh_in=0)

    def load_credentials(self) -> Lasting:
        """Itself, as a botocore session's provider of credentials."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)  # what else a client may want to know of them


def find_credentials(session: Any) -> Lasting | None:
    """Those of a botocore `session`, which signs with them from then on. Raises what botocore raises."""
    name = "metadata_service_num_attempts"
    session.set_config_variable(name, max(ATTEMPTS, int(session.get_config_variable(name))))
    source = session.get_component("credential_provider").load_credentials()
    if source is None:
        return None
    lasting = Lasting(source)
    session.register_component("credential_provider", lasting)
    return lasting

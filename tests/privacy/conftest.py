from __future__ import annotations

from collections.abc import Iterator

import pytest
from magenta import Magenta  # pyright: ignore[reportMissingImports]

import understudy.privacy.audit as audit


@pytest.fixture
def magenta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(audit, "load_detector", lambda name, **_: Magenta())
    monkeypatch.setattr(audit, "check_weights", lambda names: None)
    audit.load_detectors.cache_clear()
    yield
    audit.load_detectors.cache_clear()

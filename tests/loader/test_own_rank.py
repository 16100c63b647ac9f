"""Which rank a loader takes itself for where nobody says: a plain loop on several ranks must not repeat itself."""

from __future__ import annotations

import pytest

from understudy.loader.clips import own_rank
from understudy.shards.errors import UserError


def test_as_given_or_of_the_launcher_or_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert own_rank(None, None) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert own_rank(None, None) == (3, 8)
    assert own_rank(0, 1) == (0, 1)
    assert own_rank(1, 2) == (1, 2)
    with pytest.raises(UserError, match="give both, or neither"):
        own_rank(3, None)

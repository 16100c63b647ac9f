"""The one exception that users are meant to read. Programming errors are never turned into it."""

from __future__ import annotations


class UserError(Exception):
    """What went wrong and what to do about it, in one line. Commands print it and exit with status 2."""

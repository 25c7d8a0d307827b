"""The operator's own errors.

RatchetOperatorError
└── ChildConflict    an object with a child's name belongs to somebody else

Errors of cluster calls have their own tree in `cluster.protocol`; unusable settings raise `SettingsError` of
`ratchet_api.environment`.
"""

from __future__ import annotations


class RatchetOperatorError(Exception):
    """Base of the operator's own errors."""


class ChildConflict(RatchetOperatorError):
    """An object with the name of a child exists and is not ours; the message names it and its owner."""

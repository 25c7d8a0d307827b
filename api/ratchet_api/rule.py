"""One rule across fields as CEL, as a CRD's schema holds it. Pure data; made by `rules` and `rules_of_rl`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule.

    Its message holds no value of a field: the server cannot bound the cost of one that does. `message_expression` may
    choose among fixed texts; the message is then what the server says if that fails.
    """

    cel: str
    message: str
    field_path: str | None = None
    reason: str | None = None
    message_expression: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the rule as `x-kubernetes-validations` has it."""
        wire = {
            "rule": self.cel,
            "message": self.message,
            "messageExpression": self.message_expression,
            "fieldPath": self.field_path,
            "reason": self.reason,
        }
        return {key: value for key, value in wire.items() if value is not None}

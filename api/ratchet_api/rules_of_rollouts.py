"""Rules across fields of how a policy is served and rolled out.

Decides which rule stands on which of these models and what its refusal says. Pure data, called by `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from ratchet_api.rollout import Canary, Judged
from ratchet_api.rule import Rule
from ratchet_api.serving import Routers

ROLLOUT_RULES: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    Canary: (
        Rule(
            "self.steps.isSorted() && self.steps.all(p, self.steps.exists_one(q, q == p))",
            "steps must rise; put them in order, each once",
            field_path=".steps",
        ),
    ),
    Judged: (
        Rule(
            "self.goal != 'nonInferior' || self.margin > 0.0",
            "margin must be above 0 with goal nonInferior; raise it, or ask for superior",
            field_path=".margin",
        ),
    ),
    Routers: (
        Rule(
            "!has(self.testerHeader) || !self.testerHeader.startsWith('x-ratchet-')",
            "testerHeader must not begin with x-ratchet-, which the router keeps for itself; take another name",
            field_path=".testerHeader",
        ),
    ),
}
"""Rules of how a policy is served and rolled out."""

ROLLOUT_OF_SERVED = Rule(
    "!has(self.rollout) || has(self.serving)",
    "rollout needs serving; add it, or remove rollout",
    field_path=".rollout",
)
"""Of a policy's spec."""

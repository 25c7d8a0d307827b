"""Rules across fields of how a policy is served and rolled out.

Decides which rule stands on which of these models and what its refusal says. Pure data, called by `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from ratchet_api.fixed_shares import AbTest
from ratchet_api.generation import OF_CLASSIFIERS, OF_GENERATORS, Generation
from ratchet_api.queries import Query
from ratchet_api.rollout import Canary, Judged, Rollout
from ratchet_api.rule import Rule
from ratchet_api.serving import HttpRoute, Routers, Serving

_TESTER_HEADER = Rule(
    "!has(self.testerHeader) || !self.testerHeader.startsWith('x-ratchet-')",
    "testerHeader must not begin with x-ratchet-, which the router keeps for itself; take another name",
    field_path=".testerHeader",
)
_DEFAULTS = Routers()
_PLAIN_ROUTERS = (
    f"self.routers.replicas == {_DEFAULTS.replicas} && self.routers.cpu == {float(_DEFAULTS.cpu)} && "
    f"self.routers.memoryGi == {float(_DEFAULTS.memory_gi)} && "
    "!has(self.routers.subjectCookie) && !has(self.routers.testerHeader)"
)
"""As a client writes them that leaves no default out."""

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
        Rule(
            "!has(self.queries) || self.queries.all(q, self.queries.exists_one(p, p.name == q.name))",
            "queries must have names of their own; rename one of those that share a name",
            field_path=".queries",
        ),
    ),
    AbTest: (
        Rule("has(self.seconds) || has(self.subjects)", "abTest needs seconds or subjects, by which it ends; give one"),
        Rule(
            "self.arms.all(a, self.arms.exists_one(b, b.version == a.version && "
            "has(b.generation) == has(a.generation) && (!has(a.generation) || b.generation == a.generation)))",
            "arms must name each version once with the same generation config; remove one, or give them different ones",
            field_path=".arms",
        ),
        Rule(
            "self.arms.map(a, a.percent).sum() <= 50.0",
            "arms must be at most 50 percent together, since controls get as much; lower them",
            field_path=".arms",
        ),
    ),
    Rollout: (
        Rule("!has(self.abTest) || !has(self.shadow)", "abTest and shadow exclude each other; remove one of them"),
        Rule(
            "!has(self.abTest) || !has(self.judged) || !has(self.judged.queries) || self.judged.queries.size() == 0",
            "abTest and judged.queries exclude each other; remove one of them",
        ),
        Rule(
            "!has(self.abTest) || !has(self.judged) || !has(self.judged.deadlineSeconds)",
            "abTest and judged.deadlineSeconds exclude each other, since a test has an end of its own; remove one of them",
        ),
        Rule(
            "!has(self.abTest) || !has(self.abTest.promoteBest) || !self.abTest.promoteBest || "
            "!has(self.promotion) || self.promotion != 'manual'",
            "abTest.promoteBest needs promotion automatic; remove one of them",
        ),
    ),
    Query: (
        Rule(
            "has(self.most) || has(self.least)",
            "a query needs most or least; give one, or remove the query",
        ),
        Rule(
            "!has(self.most) || !has(self.least) || self.most >= self.least",
            "most must not be below least; swap them",
            field_path=".most",
        ),
    ),
    Generation: (
        Rule(
            " || ".join(f"has(self.{name})" for name in (*OF_GENERATORS, *OF_CLASSIFIERS)),
            f"generation is empty; give {', '.join((*OF_GENERATORS, *OF_CLASSIFIERS))}, or remove it",
        ),
    ),
    Routers: (_TESTER_HEADER,),
    HttpRoute: (_TESTER_HEADER,),
    Serving: (
        Rule(
            f"!has(self.httpRoute) || !has(self.routers) || ({_PLAIN_ROUTERS})",
            "routers do nothing beside httpRoute, whose Gateways deal; remove one of them",
            field_path=".routers",
        ),
        Rule(
            "!has(self.engine) || self.engine != 'vllm' || (has(self.resources) && has(self.resources.gpus) && "
            "self.resources.gpus >= 1)",
            "engine vllm needs resources.gpus of at least 1; raise it, or use engine builtin",
            field_path=".engine",
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

EXPLORING_CLASSIFIERS = Rule(
    "self.type == 'classifier' || !has(self.serving) || !has(self.serving.explorePercent) || "
    "self.serving.explorePercent == 0.0",
    "serving.explorePercent is for classifiers, since a generator draws by its temperature; remove it",
    field_path=".serving.explorePercent",
)
"""Of a policy's spec."""

ENGINE_OF_GENERATORS = Rule(
    "self.type == 'generator' || !has(self.serving) || !has(self.serving.engine) || self.serving.engine == 'builtin'",
    "serving.engine vllm makes a generator's tokens; a classifier has engine builtin",
    field_path=".serving.engine",
)
"""Of a policy's spec."""

SHADOW_OF_CLASSIFIERS = Rule(
    "self.type == 'classifier' || !has(self.rollout) || !has(self.rollout.shadow)",
    "rollout.shadow compares classes and is not for a generator; remove it",
    field_path=".rollout.shadow",
)
"""Likewise."""

LABELS_OF_CLASSIFIERS = Rule(
    "self.type == 'classifier' || !has(self.rollout) || !has(self.rollout.allowOtherLabels) || "
    "!self.rollout.allowOtherLabels",
    "rollout.allowOtherLabels is for classifiers, since a generator has no labels; remove it",
    field_path=".rollout.allowOtherLabels",
)
"""Likewise."""

SHADOW_OF_ROUTERS = Rule(
    "!has(self.rollout) || !has(self.rollout.shadow) || !has(self.serving) || !has(self.serving.httpRoute)",
    "rollout.shadow is asked by routers; remove it or serving.httpRoute",
    field_path=".rollout.shadow",
)
"""Likewise."""


def _none_of(names: tuple[str, ...], at: str) -> str:
    return " && ".join(f"!has({at}.{name})" for name in names)


def _configs(policy_type: str, names: tuple[str, ...]) -> tuple[Rule, Rule]:
    """Of a policy's spec: where settings stand that are only for this type."""
    told = f"{', '.join(names)} of a generation config {'are' if len(names) > 1 else 'is'} only for a {policy_type}"
    return (
        Rule(
            f"self.type == '{policy_type}' || !has(self.serving) || !has(self.serving.generation) || "
            f"({_none_of(names, 'self.serving.generation')})",
            f"{told}; remove what stands in serving.generation",
            field_path=".serving.generation",
        ),
        Rule(
            f"self.type == '{policy_type}' || !has(self.rollout) || !has(self.rollout.abTest) || "
            f"self.rollout.abTest.arms.all(a, !has(a.generation) || ({_none_of(names, 'a.generation')}))",
            f"{told}; remove what stands in an arm of rollout.abTest",
            field_path=".rollout.abTest.arms",
        ),
    )


GENERATION_OF_TYPE = (*_configs("generator", OF_GENERATORS), *_configs("classifier", OF_CLASSIFIERS))
"""Of a policy's spec."""

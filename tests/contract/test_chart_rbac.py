"""The operator's rights are those that its code uses (promise P19), granted where it works and nowhere else.

Used rights are recorded, not listed by hand: the calls of whole lives of runs, datasets and policies in the in-memory
world, the watches that kopf is told of, and the few calls beside the passes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ratchet_api.base import GROUP
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory import Call
from ratchet_operator.cluster.memory_jobs import Act, golden
from ratchet_operator.controllers.watching import CHILDREN, SERVING_CHILDREN
from ratchet_operator.wakes import OUR_RESOURCES as KINDS
from tests.contract.chart import NAMESPACE, SERVING, Grant, grants, render
from tests.world import builders as b
from tests.world.harness import World
from tests.world.serving import Served
from tests.world.test_gateways_deal import GATEWAYS
from tests.world.test_missing_rights import SAID, SERVED, UNSAID

GROUPS = {
    **dict.fromkeys(KINDS, GROUP),
    "jobs": "batch",
    "pods": "",
    "configmaps": "",
    "services": "",
    "deployments": "apps",
    "poddisruptionbudgets": "policy",
    "httproutes": "gateway.networking.k8s.io",
    "events": "events.k8s.io",
    "leases": "coordination.k8s.io",
}
HTTP_VERBS = {
    "get": ("get",),
    "list": ("list",),
    "create": ("create",),
    "delete": ("delete",),
    "apply": ("create", "patch"),
}
"""Verbs that the API server checks for a call of the `Cluster` protocol."""

HEARTBEAT = {(GROUPS["leases"], "leases", verb) for verb in HTTP_VERBS["apply"]}


def rights(calls: Iterable[Call]) -> set[Grant]:
    """What the API server would have asked RBAC for these calls."""
    used: set[Grant] = set()
    for call in calls:
        match call.verb:
            case "patch_status":
                used.add((GROUPS[call.resource], f"{call.resource}/status", "update"))
            case "emit":
                used.add((GROUPS["events"], "events", "create"))
            case "progress" | "routed" | "evidence" | "measured":
                pass  # asked of the pod, the analyst or Prometheus, not of the API server
            case "apply" if call.resource == "pods":
                used.add((GROUPS["pods"], "pods", "patch"))  # what is there; never a new one
            case verb:
                used |= {(GROUPS[call.resource], call.resource, checked) for checked in HTTP_VERBS[verb]}
    return used


def watch_rights(children: Iterable[str] = CHILDREN) -> set[Grant]:
    """kopf lists and watches; the resync lists our kinds."""
    return {(GROUPS[name], name, verb) for name in (*KINDS, *children, "leases") for verb in ("list", "watch")}


async def life_of_a_stamped_run() -> World:
    """A policy's template stamps a run, which trains, publishes, is promoted and expires."""
    world = World()
    training = {"template": b.template(ttlSecondsAfterFinished=60)}
    world.submit(b.dataset(), b.policy(training=training))
    await world.run_until(lambda: any(obj["kind"] == "RLTrainingRun" for _, obj in world.ours()))
    await world.run_until(lambda: not any(obj["kind"] == "RLTrainingRun" for _, obj in world.ours()))
    return world


async def life_of_a_suspended_run() -> World:
    """A run is suspended in the middle of a stage, and another operator's leftovers lie in its way."""
    world = World()
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: "router-resolve-1" in world.jobs())
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
    await world.run_until(lambda: world.status()["state"] == "Suspended")
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    await world.finish()
    return world


async def life_of_a_run_that_a_quota_holds_up() -> World:
    """The Job controller gets no pod admitted and says so in an event."""

    def play(stage: StageInput, pod: int) -> Act:
        if stage.config.stage == "supervised":
            return Act(refused='pods "router-supervised-1-x" is forbidden: exceeded quota: gpus')
        return golden(stage, pod)

    world = World(play)
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: "router-supervised-1" in world.jobs())
    await world.settle(8)
    return world


LIVES = (
    life_of_a_stamped_run,
    life_of_a_suspended_run,
    life_of_a_run_that_a_quota_holds_up,
)


async def life_of_a_served_policy() -> World:
    """A version goes on trial, is promoted, archives rows of the history, and serving ends."""
    world = Served()
    world.policy()
    world.remember(20)
    await world.run_until(lambda: world.status("RLPolicy", "support")["champion"] == 2)
    world.edit("RLPolicy", "support", {"spec": {"serving": None, "rollout": None}})
    await world.run_until(lambda: not world.children("services"))
    return world


async def test_serving_adds_exactly_the_rights_that_it_uses() -> None:
    """P19."""
    used = watch_rights(SERVING_CHILDREN)
    for life in (*LIVES, life_of_a_served_policy):
        used |= rights((await life()).cluster.log)
    role = render("crds.enabled=false", *SERVING).one("ClusterRole", "ratchet-operator")
    granted = grants(role["rules"])
    assert granted - used == set(), "granted, but no call of the operator uses it"
    assert used - granted == set(), "used, but the chart does not grant it"


async def test_httproutes_add_exactly_the_rights_that_they_use() -> None:
    """P19: taken away one by one in tests/world/test_gateways_deal.py."""
    world = Served()
    world.policy(serving=GATEWAYS, rollout=None)
    await world.run_until(lambda: world.says("RolledOut").get("status") == "True")
    world.edit("RLPolicy", "support", {"spec": {"serving": None}})
    await world.run_until(lambda: not world.children("httproutes"))
    used = {right for right in rights(world.cluster.log) if right[1] == "httproutes"}
    plain, routed = (
        grants(render("crds.enabled=false", *SERVING, *more).one("ClusterRole", "ratchet-operator")["rules"])
        for more in ((), ("serving.httpRoutes.enabled=true",))
    )
    assert routed - plain == used


async def test_granted_rights_are_exactly_the_used_ones() -> None:
    """P19."""
    used = watch_rights()
    for life in LIVES:
        used |= rights((await life()).cluster.log)
    granted = grants(render("crds.enabled=false").one("ClusterRole", "ratchet-operator")["rules"])
    assert granted - used == set(), "granted, but no call of the operator uses it"
    assert used - granted == set(), "used, but the chart does not grant it"


def test_every_right_that_a_pass_needs_is_taken_away_once_in_the_world() -> None:
    """P19: tests/world/test_missing_rights.py forgets none; watching and listing are kopf's."""
    taken = {("delete", "jobs"), ("delete", "rltrainingruns")}
    for verb, resource in (*SAID, *UNSAID):
        match verb:
            case "patch_status":
                taken |= {("update", f"{kind}/status") for kind in KINDS}
            case "emit":
                taken.add(("create", resource))
            case "get" if resource in KINDS:
                taken |= {("get", kind) for kind in KINDS}
            case _:
                taken.add((verb, resource))
    role = render("crds.enabled=false").one("ClusterRole", "ratchet-operator")
    granted = {(verb, resource) for _, resource, verb in grants(role["rules"])}
    assert {right for right in granted if right[0] not in ("list", "watch")} == {r for r in taken if r[0] != "list"}


def test_every_right_that_serving_needs_is_taken_away_once_in_the_world() -> None:
    """P19: as above; a right to apply is one to create and one to patch."""
    whole, plain = (
        {(verb, kind) for _, kind, verb in grants(render(*settings).one("ClusterRole", "ratchet-operator")["rules"])}
        for settings in (("crds.enabled=false", *SERVING), ("crds.enabled=false",))
    )
    taken = {("delete", "configmaps")}  # by a test of its own
    for verb, resource in SERVED:
        checked = HTTP_VERBS[verb] if (verb, resource) != ("apply", "pods") else ("patch",)
        taken |= {(each, resource) for each in checked}
    assert {right for right in whole - plain if right[0] != "watch"} == taken - plain


def test_only_the_heartbeat_may_be_written_in_the_operators_namespace() -> None:
    rendered = render("crds.enabled=false")
    role = rendered.one("Role", "ratchet-operator-heartbeat", NAMESPACE)
    assert grants(role["rules"]) == HEARTBEAT


def test_no_right_is_given_by_a_wildcard_and_none_on_secrets() -> None:
    rendered = render("crds.enabled=false", "gateway.enabled=true", "store.uri=s3://bucket")
    for role in (*rendered.all("ClusterRole"), *rendered.all("Role")):
        for group, resource, verb in grants(role["rules"]):
            assert "*" not in (group, resource, verb)
            assert resource not in {"secrets", "serviceaccounts", "pods/exec", "roles", "clusterroles"}


def test_watching_named_namespaces_needs_no_right_outside_them() -> None:
    rendered = render("watchNamespaces={team-a,team-b}", "rbac.aggregate=false", "crds.enabled=false")
    assert not rendered.all("ClusterRole")
    assert not rendered.all("ClusterRoleBinding")
    whole = render("crds.enabled=false").one("ClusterRole", "ratchet-operator")["rules"]
    for namespace in ("team-a", "team-b"):
        assert rendered.one("Role", "ratchet-operator", namespace)["rules"] == whole
        binding = rendered.one("RoleBinding", "ratchet-operator", namespace)
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ratchet-operator", "namespace": NAMESPACE}]
    # the heartbeat's Lease must be watched, too
    assert rendered.one("Role", "ratchet-operator-heartbeat")["metadata"]["namespace"] == "team-a"


def test_the_heartbeat_stays_at_home_when_home_is_watched() -> None:
    rendered = render(f"watchNamespaces={{team-a,{NAMESPACE}}}", "crds.enabled=false")
    assert rendered.one("Role", "ratchet-operator-heartbeat")["metadata"]["namespace"] == NAMESPACE


def test_every_binding_binds_an_existing_role_to_the_operators_account() -> None:
    for settings in ((), ("watchNamespaces={team-a}",)):
        rendered = render("crds.enabled=false", *settings)
        roles = {(r["kind"], r["metadata"]["name"], r["metadata"].get("namespace")) for r in
                 (*rendered.all("Role"), *rendered.all("ClusterRole"))}  # fmt: skip
        account = rendered.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
        bindings = (*rendered.all("RoleBinding"), *rendered.all("ClusterRoleBinding"))
        assert bindings
        for binding in bindings:
            reference = binding["roleRef"]
            assert (reference["kind"], reference["name"], binding["metadata"].get("namespace")) in roles
            assert [subject["name"] for subject in binding["subjects"]] == [account]


def test_users_may_edit_the_kinds_but_never_their_status() -> None:
    rendered = render("crds.enabled=false")
    edit = rendered.one("ClusterRole", "ratchet-edit")
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert {resource for _, resource, _ in grants(edit["rules"])} == set(KINDS)
    view = rendered.one("ClusterRole", "ratchet-view")
    assert {verb for _, _, verb in grants(view["rules"])} == {"get", "list", "watch"}

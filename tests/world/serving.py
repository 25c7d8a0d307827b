"""A world in which policies are served: Deployments that become ready, routers that apply tables, people who judge.

`Served` is the world of the other tests with a kubelet, routers and an analyst beside it. What routers deal is read
from the very files that Envoy would read, so that a wrong table shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from ratchet_api.base import format_time
from ratchet_api.label_sets import LabelSet
from ratchet_api.names import (
    ANNOTATION_OWNER_NAME,
    ANNOTATION_ROLLOUT,
    ANNOTATION_TABLE,
    LABEL_COMPONENT,
    LABEL_VERSION,
    router_name,
)
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.stats.ratio import log_bayes_factor
from ratchet_operator.cluster.memory import Fault
from ratchet_operator.cluster.protocol import KubeObject
from ratchet_operator.settings import Platform
from tests.world import builders as b
from tests.world.harness import SETTINGS, START, World

SERVING = replace(SETTINGS, serving=Platform("registry/serving:1", "registry/router:1"))
ROLLOUT: dict[str, Any] = {
    "canary": {"steps": [10, 50], "stepSeconds": 20, "readySeconds": 120, "unreadySeconds": 20},
    "judged": {"minSubjects": 50, "margin": 0.02},
}
LAG = 12
"""Ticks after which a kubelet looks at a ConfigMap by itself."""


@dataclass
class People:
    """Who comes, and what they think."""

    per_tick: int = 200
    likes: dict[int, float] = field(default_factory=lambda: {1: 0.5, 2: 0.8, 3: 0.9})
    errors: dict[int, float] = field(default_factory=dict)
    slow: dict[int, float] = field(default_factory=dict)
    """Share of the subjects who wait for a second; the others wait for 10 ms."""
    flips: dict[int, float] = field(default_factory=dict)
    """Share of the texts that a version answers otherwise than the champion; else a tenth."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    pairs: dict[str, tuple[int, int]] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    away: bool = False

    def come(self, experiment: str, arms: dict[str, tuple[int, int]]) -> None:
        """Deal a tick's people to the arms, exactly by weight."""
        seen = self.counts.setdefault(experiment, {"canary": 0, "control": 0, "candidate": 0, "champion": 0})
        for arm, (version, weight) in arms.items():
            seen[arm] += self.per_tick * weight // 10_000
            seen["candidate" if arm == "canary" else "champion"] = version
        bias = log_bayes_factor((seen["canary"], seen["control"]), (0.5, 0.5))
        self.worst[experiment] = max(self.worst.get(experiment, 0.0), bias)

    def compare(self, told: str, per_tenthousand: int) -> None:
        """Let a shadow be asked a part of what a tick's people ask; `told` is what the router says of it."""
        version, experiment = told.split("/")
        pairs, flips = self.pairs.get(experiment, (0, 0))
        more = self.per_tick * per_tenthousand // 10_000
        self.pairs[experiment] = (pairs + more, flips + round(more * self.flips.get(int(version), 0.1)))

    def told(self, policy: str, experiment: str) -> dict[str, Any] | str:
        """Answer as the analyst does."""
        if self.away:
            return "the analyst does not answer"
        seen = self.counts.get(experiment, {"canary": 0, "control": 0, "candidate": 0, "champion": 0})
        size = (seen["canary"], seen["control"])
        who = (seen["candidate"], seen["champion"])
        good, bad, slow = (
            [round(n * of.get(version, 0.0)) for n, version in zip(size, who, strict=True)]
            for of in (self.likes, self.errors, self.slow)
        )
        paces = [
            [{"milliseconds": 10.0, "subjects": n - late}, {"milliseconds": 1000.0, "subjects": late}]
            for n, late in zip(size, slow, strict=True)
        ]
        sums = [{"subjects": n, "total": float(g), "squares": float(g)} for n, g in zip(size, good, strict=True)]
        rare = {"candidateEvents": bad[0], "candidateSubjects": size[0]}
        rare |= {"championEvents": bad[1], "championSubjects": size[1]}
        pairs, flips = self.pairs.get(experiment, (0, 0))
        everywhere = {"candidate": sums[0], "champion": sums[1]}
        return {
            "policy": policy,
            "experiment": experiment,
            "attributionSeconds": 60.0,
            "split": {"counts": list(size), "worst": self.worst.get(experiment, 0.0)},
            "means": {"feedback": everywhere, "abstentions": everywhere, "feedbackRate": everywhere},
            "rare": {"errors": rare},
            "paces": {"candidate": paces[0], "champion": paces[1]},
            "shadow": {"pairs": pairs, "flips": flips, "championP99Ms": 10.0, "candidateP99Ms": 12.0},
            "problem": self.problem,
            "ageSeconds": 5.0 if sum(size) else None,
            "subjectsPerDay": 1000.0,
        }


class Served(World):
    """The world of one test, with servers and routers."""

    def __init__(self, *, fault: Fault | None = None, **more: Any) -> None:
        super().__init__(fault=fault, **({"settings": SERVING} | more))
        self.people = People()
        self.broken: set[int] = set()
        self.hanging: set[str] = set()
        self.labels: dict[int, list[str]] = {}
        """Classes of the versions; one without an entry was registered before they were kept."""
        self.refused = ""
        """Why Gateways do not take a route; empty = they do."""
        self.cluster.counts = self.people.told
        self._age: dict[str, int] = {}
        self._laid: dict[str, tuple[str, int]] = {}

    def policy(self, versions: int = 2, *, champion: int | None = 1, name: str = "support", **fields: Any) -> None:
        """Submit a policy that has these versions already."""
        spec = {"serving": {}, "rollout": ROLLOUT, **fields}
        self.submit(b.policy(name, **{key: value for key, value in spec.items() if value is not None}))
        rows = [self.version(number) for number in range(1, versions + 1)]
        status = RLPolicyStatus.model_validate(
            {"versions": rows, "nextVersion": versions + 1, "champion": champion}
            | ({"championDigest": rows[champion - 1]["digest"]} if champion else {})
        )
        self.cluster.objects.set_status("rlpolicies", self.object("RLPolicy", name), status.to_wire())

    def version(self, number: int) -> dict[str, Any]:
        return {
            "version": number,
            "run": f"run-{number}",
            "runUid": f"uid-{number}",
            "uri": f"s3://bucket/root/{number}",
            "digest": f"{number:064d}",
            "datasetDigest": "d" * 64,
            **({"labels": LabelSet.of(self.labels[number]).to_wire()} if number in self.labels else {}),
            "published": START.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def publish(self, number: int, name: str = "support") -> None:
        """Add a version to the status, as a run that passed its gates would."""
        obj = self.object("RLPolicy", name)
        status = {**obj["status"], "versions": [*obj["status"]["versions"], self.version(number)]}
        self.cluster.objects.set_status("rlpolicies", obj, status | {"nextVersion": number + 1})

    def crash(self, version: int, *, code: int, restarts: int, reason: str = "Error", message: str = "") -> None:
        """Let a pod of the version's servers have ended so, and so often; it is made if it is not there."""
        name = f"support-v{version}"
        deployment = self.cluster.objects.get("deployments", b.NAMESPACE, name)
        assert deployment is not None
        pod = self.cluster.objects.get("pods", b.NAMESPACE, f"{name}-0")
        if pod is None:
            meta = {"name": f"{name}-0", "namespace": b.NAMESPACE}
            meta |= {"labels": deployment["spec"]["template"]["metadata"]["labels"]}
            pod = self.cluster.objects.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta})
        ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": format_time(self.now)}
        row = {"name": "server", "restartCount": restarts, "lastState": {"terminated": ended}}
        row |= {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}}
        self.cluster.objects.set_status("pods", pod, {"phase": "Running", "containerStatuses": [row]}, locked=False)

    def remember(self, rows: int, name: str = "support") -> None:
        """Let the policy have served so many shares before."""
        obj, since = self.object("RLPolicy", name), START.strftime("%Y-%m-%dT%H:%M:%SZ")
        numbers = range(1, rows + 1)
        history = [{"number": n, "version": 1 + n % 2, "since": since, "why": "then", "by": "user"} for n in numbers]
        rollout = {"serving": 1, "history": history, "rows": rows, "experiments": 7}
        self.cluster.objects.set_status("rlpolicies", obj, {**obj["status"], "rollout": rollout})

    def tell(self, command: str | None, name: str = "support") -> None:
        self.edit("RLPolicy", name, {"metadata": {"annotations": {ANNOTATION_ROLLOUT: command}}})

    def rollout(self, name: str = "support") -> dict[str, Any]:
        return self.status("RLPolicy", name).get("rollout") or {}

    def says(self, type: str, name: str = "support") -> dict[str, Any]:
        return self.condition(type, "RLPolicy", name)

    def children(self, resource: str) -> list[str]:
        return [obj["metadata"]["name"] for obj in self.cluster.objects.select(resource)]

    def table(self, name: str = "support") -> dict[str, Any]:
        """The routes that the routers are told."""
        found = self.cluster.objects.get("configmaps", b.NAMESPACE, router_name(name))
        assert found is not None
        routes: dict[str, Any] = json.loads(found["data"]["routes.json"])
        return routes

    async def tick(self) -> None:
        await super().tick()
        for deployment in self.cluster.objects.select("deployments"):
            match deployment["metadata"]["labels"][LABEL_COMPONENT]:
                case "server":
                    self._servers(deployment)
                case "router":
                    self._routers(deployment)

        for route in self.cluster.objects.select("httproutes"):
            self._gateways(route)

    def _gateways(self, route: KubeObject) -> None:
        """Each Gateway says a tick later whether it took the route, and people come through the first that did."""
        said = "False" if self.refused else "True"
        told = {"observedGeneration": route["metadata"]["generation"], "reason": self.refused or "Accepted"}
        rows = [{"type": kind, "status": said, **told} for kind in ("Accepted", "ResolvedRefs")]
        parents = [{"parentRef": parent, "conditions": rows} for parent in route["spec"]["parentRefs"]]
        if route["metadata"]["name"] in self.hanging:
            return
        if (route.get("status") or {}).get("parents") != parents:
            self.cluster.objects.set_status("httproutes", route, {"parents": parents}, locked=False)
        elif not self.refused:
            self._come_by_route(route)

    def _come_by_route(self, route: KubeObject) -> None:
        """Deal by the weights, and tell the arms by what the route has the servers told."""
        backends = route["spec"]["rules"][-1]["backendRefs"]
        told = {}
        for backend in (each for each in backends if "filters" in each):
            change = backend["filters"][0]["requestHeaderModifier"]
            said = {header["name"]: header["value"] for header in change["set"]}
            if "x-ratchet-experiment" in said:
                version = int(backend["name"].rpartition("-v")[2])
                told[said["x-ratchet-arm"]] = (version, backend["weight"])
                experiment = said["x-ratchet-experiment"]
        if told:
            self.people.come(experiment, told)

    def _servers(self, deployment: KubeObject) -> None:
        name, version = deployment["metadata"]["name"], int(deployment["metadata"]["labels"][LABEL_VERSION])
        self._age[name] = self._age.get(name, 0) + 1
        ready = deployment["spec"]["replicas"] if self._age[name] > 2 and version not in self.broken else 0
        if (deployment.get("status") or {}).get("readyReplicas", 0) != ready:
            self.cluster.objects.set_status("deployments", deployment, {"readyReplicas": ready}, locked=False)

    def _routers(self, deployment: KubeObject) -> None:
        name, template = deployment["metadata"]["name"], deployment["spec"]["template"]
        for number in range(deployment["spec"]["replicas"]):
            pod = f"{name}-{number}"
            if self.cluster.objects.get("pods", b.NAMESPACE, pod) is None:
                owner = {"uid": deployment["metadata"]["uid"], "kind": "Deployment", "name": name, "controller": True}
                meta = {"name": pod, "namespace": b.NAMESPACE, "labels": template["metadata"]["labels"]}
                self.cluster.objects.create(
                    "pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta | {"ownerReferences": [owner]}}
                )
                status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
                made = self.cluster.objects.get("pods", b.NAMESPACE, pod)
                assert made is not None
                self.cluster.objects.set_status("pods", made, status)
            self._route(pod, deployment["metadata"]["annotations"][ANNOTATION_OWNER_NAME])

    def _route(self, pod: str, policy: str) -> None:
        """A router applies its table when its kubelet looks: at once if the annotation is new, else after a while."""
        wanted = self.table(policy)["version_info"]
        obj = self.cluster.objects.get("pods", b.NAMESPACE, pod)
        assert obj is not None
        note = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_TABLE, "")
        laid, age = self._laid.get(pod, (wanted, 0))
        looks = note.startswith(wanted) or age >= LAG or laid == wanted
        self._laid[pod] = (wanted, 0) if looks and pod not in self.hanging else (laid, age + 1)
        if pod in self.hanging:
            self.cluster.routers.pop(pod, None)
            return
        self.cluster.routers[pod] = (self._laid[pod][0], frozenset(self._reached(policy)))
        if pod.endswith("-0") and self._laid[pod][0] == wanted:
            self._people_come(policy)

    def _reached(self, policy: str) -> list[int]:
        backends = {c["match"]["path"].rsplit("/", 1)[-1] for c in self._routes(policy) if "/ready/" in str(c["match"])}
        servers = self.cluster.objects.select("deployments", labels={LABEL_COMPONENT: "server"})
        ready = {d["metadata"]["labels"][LABEL_VERSION] for d in servers if d.get("status", {}).get("readyReplicas")}
        return sorted(int(version) for version in backends & ready)

    def _people_come(self, policy: str) -> None:
        for route in self._routes(policy):
            if "request_mirror_policies" in route.get("route", {}):
                said = {each["header"]["key"]: each["header"]["value"] for each in route["request_headers_to_add"]}
                share = route["match"]["runtime_fraction"]["default_value"]["numerator"]
                self.people.compare(said["x-ratchet-shadow"], share)
        dealt = [route["route"]["weighted_clusters"]["clusters"] for route in self._routes(policy) if _split(route)]
        if not dealt:
            return
        trials: dict[str, dict[str, tuple[int, int]]] = {}
        for each in dealt[0]:
            if (said := _said(each))["x-ratchet-arm"] != "champion":
                arm = (int(each["name"].removeprefix("v")), each["weight"])
                trials.setdefault(said["x-ratchet-experiment"], {})[said["x-ratchet-arm"]] = arm
        for experiment, arms in trials.items():
            self.people.come(experiment, arms)

    def _routes(self, policy: str) -> list[dict[str, Any]]:
        routes: list[dict[str, Any]] = self.table(policy)["resources"][0]["virtual_hosts"][0]["routes"]
        return routes


def _split(route: dict[str, Any]) -> bool:
    return "weighted_clusters" in route.get("route", {})


def _said(cluster: dict[str, Any]) -> dict[str, str]:
    return {h["header"]["key"]: h["header"]["value"] for h in cluster["request_headers_to_add"]}

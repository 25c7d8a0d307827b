"""The lab's Python API: bring a cluster up and down, talk to it, and break it on purpose.

Decides the order of things; how each component runs is in `components`, where programs come from in `binaries`, how
images get in without a registry in `images`. Used by the command line, the pytest fixture and the end-to-end tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.lab import binaries, cgroups, components, config, images, netns, pki, processes, teardown
from tests.lab.bootstrap import cluster_objects
from tests.lab.progress import locked, require_disk, run, say, step
from tests.lab.settings import DEFAULT_NAME, NODE, NODE_IP, PROMETHEUS_URL, S3_BUCKET, S3_ENDPOINT, LabError, Paths


class Lab:
    """One cluster, known by its name; every method works from any process, as all state is on disk."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        """Name a lab; nothing is started.

        Raises:
            LabError: the name is not usable.
        """
        self.paths = Paths.of(name)

    # --- life cycle ---------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring the cluster to a Ready node. Does nothing when it is up, and cleans first when it is half up.

        Raises:
            LabError: a component did not come up; the message holds the end of its log.
        """
        _require_root()
        with self._exclusive():
            if self.is_up():
                return
            self._clean_leftovers()
            binaries.packages()
            for module in binaries.CLUSTER:
                binaries.ensure(module)
            binaries.tools()
            require_disk(self.paths.state, 2.0, "a lab's state")
            with step("starting the cluster"):
                self._make_ground()
                self._start_all(components.FOUNDATION)
                self._forget_old_containers()
                images.ensure_basic(self)
                self._start_all(components.UPON_API)
                self._settle()
            say(f"node {NODE} is Ready; kubeconfig (inside the namespace): {self.paths.kubeconfig}")

    def down(self) -> None:
        """Stop everything and remove every trace except the cache; works after a crash as well."""
        _require_root()
        with self._exclusive():
            teardown.clean(self.paths)

    def forget_images(self) -> None:
        """Remove what this lab imported from the cache; for labs that no one will start again. The lab must be down."""
        if left := teardown.traces(self.paths):
            raise LabError(f"lab {self.paths.name!r} is not down: {'; '.join(left)}")
        shutil.rmtree(self.paths.containerd_root, ignore_errors=True)

    def up_containerd_only(self) -> None:
        """Start just enough to import images, for filling the cache before a cluster is wanted."""
        _require_root()
        with self._exclusive():
            if processes.alive(processes.read(self.paths, components.CONTAINERD.name)):
                return
            self._clean_leftovers()
            binaries.packages()
            self._make_ground()
            self._start_all((components.CONTAINERD,))

    def is_up(self) -> bool:
        """Tell whether every component is alive and answers."""
        return all(self.component_state(name) == "up" for name in components.ALL)

    def component_state(self, name: str) -> str:
        """Return up, starting (alive, no answer), dead (recorded, gone) or stopped."""
        record = processes.read(self.paths, name)
        if record is None:
            return "stopped"
        if not processes.alive(record):
            return "dead"
        return "up" if components.answers(components.ALL[name], self.paths) else "starting"

    def _clean_leftovers(self) -> None:
        if teardown.traces(self.paths):
            say(f"lab {self.paths.name!r} was left half up: cleaning first")
            teardown.clean(self.paths)

    def _make_ground(self) -> None:
        paths = self.paths
        stores = [paths.data / kind for kind in ("etcd", "s3", "s3-tmp", "prometheus")]
        for directory in (paths.state, paths.logs, *stores, paths.kubelet):
            directory.mkdir(parents=True, exist_ok=True)
        (paths.data / "etcd").chmod(0o700)
        paths.state.chmod(0o755)
        pki.create(paths)
        config.write_all(paths)
        cgroups.create(paths.name)
        netns.create(paths.netns)

    def _start_all(self, wanted: Sequence[components.Component]) -> None:
        for component in wanted:
            processes.start(self.paths, component.name, component.command(self.paths))
        for component in wanted:
            self._wait_component(component)

    def _forget_old_containers(self) -> None:
        """Remove containers that a crashed lab left in containerd's root; kubelet would try to manage them."""
        old = self.ctr("containers", "list", "-q").split()
        if old:
            self.ctr("containers", "delete", *old)
            self.kill("containerd")
            self.start("containerd")

    def _wait_component(self, component: components.Component, patience_seconds: float = 90.0) -> None:
        deadline = time.monotonic() + patience_seconds
        while not components.answers(component, self.paths):
            if not processes.alive(processes.read(self.paths, component.name)):
                raise LabError(f"{component.name} ended while starting; {self.log_tail(component.name)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{component.name} gave no answer for {patience_seconds:.0f} s; {self.log_tail(component.name)}"
                )
            time.sleep(0.1)

    def _settle(self) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps(cluster_objects()))
        self._make_bucket()
        self.wait_for(lambda: self.node_condition("Ready") == "True", "the node to be Ready", 60)
        # The default service account appears a moment after its namespace; pods before it are refused.
        self.wait_for(
            lambda: bool(self.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")),
            "the default service account",
            30,
        )

    def _make_bucket(self) -> None:
        command: list[str | Path] = [
            binaries.tools() / "weed",
            "shell",
            f"-master={NODE_IP}:9333",
        ]
        run(self._inside(command), input_text=f"s3.bucket.create -name {S3_BUCKET}\nexit\n", timeout_seconds=60)

    # --- talking to it ------------------------------------------------------------------------------------------

    def kubectl(self, *args: str, input: str | None = None, timeout_seconds: float = 120.0, check: bool = True) -> str:
        """Run kubectl as administrator and return its output.

        Raises:
            LabError: kubectl failed (unless `check` is False).
        """
        command: list[str | Path] = [binaries.tools() / "kubectl", f"--kubeconfig={self.paths.kubeconfig}", *args]
        return run(self._inside(command), input_text=input, timeout_seconds=timeout_seconds, check=check)

    def apply(self, *objects: Mapping[str, object]) -> None:
        """Apply manifests given as Python values."""
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *args: str) -> dict[str, object]:
        """Return `kubectl get ... -o json` as a Python value."""
        parsed: dict[str, object] = json.loads(self.kubectl("get", *args, "-o", "json"))
        return parsed

    def helm(self, *args: str, timeout_seconds: float = 300.0) -> str:
        """Run helm as administrator; its own caches stay in the lab's state directory."""
        env = {**os.environ, "KUBECONFIG": str(self.paths.kubeconfig)}
        for kind in ("CACHE", "CONFIG", "DATA"):
            env[f"HELM_{kind}_HOME"] = str(self.paths.state / "helm" / kind.lower())
        command: list[str | Path] = [binaries.ensure(binaries.HELM) / "helm", *args]
        return run(self._inside(command), env=env, timeout_seconds=timeout_seconds)

    def ctr(self, *args: str, timeout_seconds: float = 300.0) -> str:
        """Run containerd's client in the namespace that Kubernetes uses."""
        return run(["ctr", "-a", self.paths.containerd_socket, "-n", "k8s.io", *args], timeout_seconds=timeout_seconds)

    def in_netns(self, command: Sequence[str | Path], **kwargs: object) -> str:
        """Run a command inside the lab's network namespace with KUBECONFIG set; see `progress.run` for the rest."""
        return run(self._inside(command), env=self.environment(), **kwargs)  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        """Environment for commands in the lab: kubeconfig, kubectl and helm on the PATH, S3 credentials, no proxies."""
        access, secret = self.s3_credentials()
        kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        path = f"{binaries.tools()}:{binaries.HELM.directory()}:{kept.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        return {
            **kept,
            "PATH": path,
            "KUBECONFIG": str(self.paths.kubeconfig),
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def inside(self) -> AbstractContextManager[None]:
        """Move the calling thread into the lab's network for a block, to use ordinary clients against it."""
        return netns.inside(self.paths.netns)

    def _inside(self, command: Sequence[str | Path]) -> list[str | Path]:
        return [*self.enter, *command]

    @property
    def enter(self) -> list[str]:
        """Words to put before a command that stays, so that it runs inside the namespace."""
        return netns.enter_prefix(self.paths.netns)

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig; its address is reachable inside the namespace only."""
        return self.paths.kubeconfig

    @property
    def s3_endpoint(self) -> str:
        """S3 endpoint as pods and code inside the namespace reach it."""
        return S3_ENDPOINT

    @property
    def s3_bucket(self) -> str:
        """Bucket that `up` makes."""
        return S3_BUCKET

    def s3_credentials(self, identity: str = "admin") -> tuple[str, str]:
        """Return the keys of `admin` (everything), `reader` (the bucket) or `gateway` (one team's log and probe)."""
        for entry in json.loads(self.paths.s3_config.read_text())["identities"]:
            if entry["name"] == identity:
                pair = entry["credentials"][0]
                return pair["accessKey"], pair["secretKey"]
        raise LabError(f"no S3 identity {identity!r}; the lab has admin, reader and gateway")

    def prometheus(self, query: str) -> list[dict[str, object]]:
        """Return the result vector of an instant query: [{'metric': {...}, 'value': [time, 'text']}, …]."""
        url = f"{PROMETHEUS_URL}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self.inside(), opener.open(url, timeout=10) as reply:
            answer = json.load(reply)
        result: list[dict[str, object]] = answer["data"]["result"]
        return result

    def node_condition(self, kind: str) -> str:
        """Status of a node condition: True, False, Unknown, or empty while the node is not registered."""
        return self.kubectl(
            "get",
            "node",
            NODE,
            "--ignore-not-found",
            "-o",
            f"jsonpath={{.status.conditions[?(@.type=='{kind}')].status}}",
        ).strip()

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_seconds: float) -> None:
        """Poll a condition until it holds; errors of single polls count as not yet.

        Raises:
            LabError: it did not hold in time.
        """
        deadline = time.monotonic() + timeout_seconds
        last = ""
        while True:
            try:
                if condition():
                    return
            except (LabError, OSError, ValueError) as error:
                last = f"; last error: {error}"
            if time.monotonic() > deadline:
                raise LabError(f"waited {timeout_seconds:.0f} s for {what}{last}")
            time.sleep(0.2)

    def log_tail(self, name: str, lines: int = 15) -> str:
        """Return the end of a component's log, for error messages."""
        path = self.paths.logs / f"{name}.log"
        try:
            text = path.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            text = []
        return f"end of {path}:\n" + "\n".join(text)

    # --- faults -------------------------------------------------------------------------------------------------

    def stop(self, name: str) -> None:
        """Stop a component in an orderly way (SIGTERM) and wait until it is gone."""
        processes.stop(self.paths, self._known(name))

    def kill(self, name: str) -> None:
        """End a component at once (SIGKILL)."""
        processes.stop(self.paths, self._known(name), number=signal.SIGKILL)

    def start(self, name: str) -> None:
        """Start a stopped or dead component as `up` did and wait until it answers. Alive ones are left alone."""
        component = components.ALL[self._known(name)]
        if not processes.alive(processes.read(self.paths, name)):
            if component.socket is not None:
                component.socket(self.paths).unlink(missing_ok=True)
            processes.start(self.paths, name, component.command(self.paths))
        self._wait_component(component)

    def freeze(self, name: str) -> None:
        """Stop a component's clock (SIGSTOP): its connections stay open and silent."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen component go on."""
        self._signal(name, signal.SIGCONT)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Take a component away for the time of a block: `with lab.without("s3"): …`."""
        self.stop(name)
        try:
            yield
        finally:
            self.start(name)

    def set_node_capacity(self, resources: Mapping[str, int]) -> None:
        """Make the node offer extended resources, for example {"nvidia.com/gpu": 4}; 0 takes them away again."""
        operations = [
            {"op": "add", "path": f"/status/{field}/{_pointer(resource)}", "value": str(count)}
            for resource, count in resources.items()
            for field in ("capacity", "allocatable")
        ]
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps(operations))

    def _signal(self, name: str, number: signal.Signals) -> None:
        record = processes.read(self.paths, self._known(name))
        if record is None or not processes.alive(record):
            raise LabError(f"{name} is not running, so it cannot be sent {number.name}")
        processes.send(record, number)

    def _known(self, name: str) -> str:
        if name not in components.ALL:
            raise LabError(f"no component {name!r}; the lab has {', '.join(components.ALL)}")
        return name

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep two processes from bringing the same lab up or down at once."""
        with locked(f"lab-{self.paths.name}"):
            yield


def _pointer(key: str) -> str:
    """Escape a key for a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes a network namespace, mounts and cgroups")

"""Backend for the state directory of this machine: reads its files, changes them itself or through a running command.

Decides how a change reaches a directory that is in use: it is put into its inbox, which `ratchet run` and `ratchet up`
read twice a second; otherwise it is made at once, followed by the passes that it asks for. Either way it was decided
about when the call returns: whoever goes on finds it, or the running command's log says why it was refused. Used by the
local verbs.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet_api.kinds import RL_TRAINING_RUN, Kind
from ratchet_api.names import LABEL_OWNER_KIND, LABEL_OWNER_NAME, LABEL_STAGE, label_value
from ratchet_cli.backend import Body, owned_by
from ratchet_cli.embedded import local_settings
from ratchet_cli.errors import CliError, NotFound
from ratchet_cli.home import Home
from ratchet_operator.cluster.disk import read_objects
from ratchet_operator.cluster.local import HomeBusy, LocalCluster, is_owned, owner_of, refuse_change
from ratchet_operator.cluster.protocol import Denied
from ratchet_operator.wakes import Key

_FOLLOW_SECONDS = 0.3
_TAKEN_SECONDS = 30.0
"""How long the command that works here may take to look into its inbox."""
_LOOK_SECONDS = 0.02


class LocalBackend:
    """Objects of our kinds below one state directory.

    Raises:
        NotFound: nothing was ever run there.
    """

    def __init__(self, home: Home, namespace: str) -> None:
        if not home.exists:
            raise NotFound(f"nothing was run in {home.path} yet; run `ratchet run -f …` there, or set RATCHET_HOME")
        self._home = home
        self.namespace = namespace
        self.where = str(home.path)

    def notice(self) -> str:
        """Say so if runs wait here for a command that goes on with them."""
        from ratchet_cli.driver import at_rest

        waiting = [body["metadata"]["name"] for body in self.list(RL_TRAINING_RUN) if not at_rest(body)]
        if not waiting or is_owned(self._home.path):
            return ""
        return f"nobody works here: `ratchet run -f …` or `ratchet up` goes on with {', '.join(waiting)}"

    def get(self, kind: Kind[Any, Any], name: str) -> Body | None:
        """Return the object or None."""
        return next((each for each in self.list(kind) if each["metadata"]["name"] == name), None)

    def list(self, kind: Kind[Any, Any]) -> Sequence[Body]:
        """Return all objects of the kind, sorted by name."""
        return read_objects(self._home.path, kind.plural, self.namespace)

    def apply(self, kind: Kind[Any, Any], body: Body) -> str:
        """Hand the object to the command that works here; without one, nobody would run it.

        Raises:
            CliError: nobody works here, the run has started with another spec, or the change was not taken on.
        """
        name = body["metadata"]["name"]
        alone = CliError(
            f"{kind.kind} {name!r}: nobody works in {self.where}; start `ratchet up` first, or use `ratchet run -f`"
        )
        if not is_owned(self._home.path):
            raise alone
        manifest = {**body, "metadata": {**body["metadata"], "namespace": self.namespace}}
        manifest.pop("status", None)
        old = self.get(kind, name)
        if old is not None:
            try:
                refuse_change(old, manifest)
            except Denied as error:
                raise CliError(str(error)) from error
        if not self._hand_over(
            {"op": "apply", "resource": kind.plural, "namespace": self.namespace, "name": name, "body": manifest}
        ):
            raise alone
        if old is None:
            return "created"
        told = (manifest["metadata"].get(part, {}).items() for part in ("labels", "annotations"))
        kept = (old["metadata"].get(part, {}).items() for part in ("labels", "annotations"))
        same = old["spec"] == manifest["spec"] and all(new <= now for new, now in zip(told, kept, strict=True))
        return "unchanged" if same else "configured"

    def who(self) -> str:
        """Return the name of the user of this machine; empty if there is none."""
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # a container's user may have a number alone
            return ""

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the object."""
        self._edit({"op": "patch", "resource": kind.plural, "namespace": self.namespace, "name": name, "patch": patch})

    def delete(self, kind: Kind[Any, Any], name: str) -> None:
        """Delete the object; its processes are asked to leave."""
        self._edit({"op": "delete", "resource": kind.plural, "namespace": self.namespace, "name": name})

    def config_maps(self, labels: Mapping[str, str], *, owner_uid: str) -> Sequence[Body]:
        """Return the ConfigMaps with these labels that the object with this uid owns."""
        found = read_objects(self._home.path, "configmaps", self.namespace)
        return [
            each
            for each in found
            if labels.items() <= each["metadata"].get("labels", {}).items() and owned_by(each, owner_uid)
        ]

    def pods(self, kind: Kind[Any, Any], name: str, stage: str | None) -> Sequence[Body]:
        """Return the pods that worked for the object, oldest first."""
        wanted = {LABEL_OWNER_KIND: kind.kind, LABEL_OWNER_NAME: label_value(name)} | (
            {LABEL_STAGE: stage} if stage else {}
        )
        found = [
            p
            for p in read_objects(self._home.path, "pods", self.namespace)
            if wanted.items() <= p["metadata"].get("labels", {}).items()
        ]
        return sorted(
            found, key=lambda pod: (str(pod["metadata"]["creationTimestamp"]), int(pod["metadata"]["resourceVersion"]))
        )

    def logs(self, pod: Body, *, follow: bool) -> Iterator[str]:
        """Yield the pod's output line by line."""
        name = pod["metadata"]["name"]
        path = self._home.path / "logs" / self.namespace / f"{name}.log"
        if not path.exists():
            raise NotFound(f"pod {name} has written nothing yet")
        with path.open(encoding="utf-8", errors="replace") as file:
            while True:
                for line in file:
                    yield line.rstrip("\n")
                if not (follow and self._runs(name)):
                    return
                time.sleep(_FOLLOW_SECONDS)

    def _runs(self, pod: str) -> bool:
        found = (p for p in read_objects(self._home.path, "pods", self.namespace) if p["metadata"]["name"] == pod)
        return any(p.get("status", {}).get("phase") in ("Pending", "Running") for p in found)

    def _edit(self, edit: dict[str, Any]) -> None:
        while True:
            try:
                with LocalCluster(self._home.path) as cluster:
                    asyncio.run(_edit_and_settle(cluster, edit, self._home))
                return
            except HomeBusy:
                if self._hand_over(edit):
                    return

    def _hand_over(self, edit: dict[str, Any]) -> bool:
        """Have the command that works here make a change, and return when it did.

        What a person says after `ratchet submit` is about an object that is there, and a second change starts from the
        first. Returns False when that command ended, or was a short verb that reads no inbox; then nothing is left.
        """
        inbox = self._home.path / "inbox"
        inbox.mkdir(exist_ok=True)
        path = inbox / f"{time.time_ns()}-{secrets.token_hex(2)}.json"
        _put(path, edit)
        end = time.monotonic() + _TAKEN_SECONDS
        while path.exists():
            if not is_owned(self._home.path):
                try:
                    path.unlink()
                except FileNotFoundError:  # it was taken on just before
                    return True
                return False
            if time.monotonic() > end:
                raise CliError(
                    f"{edit['resource']} {edit['name']!r}: process {owner_of(self._home.path)}, which works in "
                    f"{self.where}, did not take the change on within {_TAKEN_SECONDS:g} s; it does so later, or the "
                    "next `ratchet up` does"
                )
            time.sleep(_LOOK_SECONDS)
        return True


async def _edit_and_settle(cluster: LocalCluster, edit: dict[str, Any], home: Home) -> None:
    from ratchet_cli.driver import Driver, apply_edit

    driver = Driver(cluster, local_settings(home, "warning"))
    driver.want([Key(edit["resource"], edit["namespace"], edit["name"])])
    apply_edit(cluster, edit)
    for job in cluster.objects.find_all("jobs"):
        cluster.runner.wake(job) if "deletionTimestamp" in job["metadata"] else None
    await driver.settle()


def _put(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)

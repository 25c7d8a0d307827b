"""Who reaches what in a store that teams share: every role of two teams against every prefix, on a real S3 server."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from itertools import product

import pytest

from ratchet_api.stage import StoreConfig
from ratchet_jobs.runtime.errors import StoreAccessDenied
from ratchet_jobs.runtime.store import Store, open_store
from tests.contract.seaweed import BUCKET, SeaweedServer

pytestmark = pytest.mark.slow

TEAMS = ("team-a", "team-b")
PREFIXES = ("log", "probe", "erasures", "runs", "snapshots", "policies", "index", "judge")
"""What lies below a team's folder."""
DOES = {
    "stages": {"read": PREFIXES, "write": PREFIXES, "list": PREFIXES, "delete": PREFIXES},
    "gateway": {
        "read": ("log", "probe", "erasures"),
        "write": ("log", "probe", "erasures"),
        "list": ("log", "probe", "erasures"),
        "delete": ("probe",),
    },
    "analyst": {"read": ("log",), "write": (), "list": ("log",), "delete": ()},
}
"""What a role may do below its own team's folder, as docs/how-to/feedback.md and install.md grant it."""
ACTIONS = ("read", "write", "list", "delete")


def identities() -> Iterator[tuple[str, list[str]]]:
    for team, (role, may) in product(TEAMS, DOES.items()):
        words = {"read": "Read", "write": "Write", "list": "List"}
        yield (
            f"{team}-{role}",
            [f"{words[what]}:{BUCKET}/{team}/{prefix}/*" for what in words for prefix in may[what]],
        )


def keeps(team: str) -> dict[str, object]:
    """What keeps a gateway's own credentials from deleting what was acknowledged; here a PUT's right covers both."""
    return {
        "Effect": "Deny",
        "Principal": {"AWS": f"arn:aws:iam::000000000000:user/{team}-gateway"},
        "Action": "s3:DeleteObject",
        "Resource": [f"arn:aws:s3:::{BUCKET}/{team}/{prefix}/*" for prefix in ("log", "erasures")],
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    """A store for each role, and one thing under every prefix."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweed"), dict(identities())) as server:
        for team, prefix in product(TEAMS, PREFIXES):
            server.client().put_object(Bucket=BUCKET, Key=f"{team}/{prefix}/thing", Body=b"of the team alone")
        document = {"Version": "2012-10-17", "Statement": [keeps(team) for team in TEAMS]}
        server.client().put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(document))
        opened = {}
        for name in (f"{team}-{role}" for team, role in product(TEAMS, DOES)):
            with environment(AWS_ACCESS_KEY_ID=name, AWS_SECRET_ACCESS_KEY=f"{name}-secret"):
                config = StoreConfig(uri=f"s3://{BUCKET}", endpoint=server.endpoint)
                opened[name] = open_store(config, patience_seconds=20)
        yield opened


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        nobody = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        for name, value in (nobody | {"AWS_EC2_METADATA_DISABLED": "true"} | values).items():
            patch.setenv(name, value)
        yield


def attempt(store: Store, action: str, folder: str) -> bool:
    """Whether the store lets it be."""
    try:
        if action == "read":
            assert store.read(f"{folder}/thing") == b"of the team alone"
        elif action == "write":
            store.create(f"{folder}/{os.urandom(8).hex()}", b"new")
        elif action == "list":
            store.list(folder)
        else:
            store.delete([f"{folder}/never-was"])  # a server that would have done it says so all the same
    except StoreAccessDenied:
        return False
    return True


@pytest.mark.parametrize(("team", "role"), list(product(TEAMS, DOES)))
def test_a_role_reaches_its_own_prefixes_and_no_other(stores: dict[str, Store], team: str, role: str) -> None:
    """P23: every cell, what is denied and what is allowed, through the client that all parts use."""
    cells = {(action, f"{whose}/{prefix}") for action, whose, prefix in product(ACTIONS, TEAMS, PREFIXES)}
    allowed = {(action, folder) for action, folder in cells if attempt(stores[f"{team}-{role}"], action, folder)}
    assert len(cells) == 4 * 2 * 8
    assert allowed == {(action, f"{team}/{prefix}") for action, prefixes in DOES[role].items() for prefix in prefixes}


@pytest.mark.parametrize("role", list(DOES))
def test_what_is_denied_changes_nothing(stores: dict[str, Store], role: str) -> None:
    """P23: after all that the other team tried, a team's things are what they were."""
    for action, prefix in product(ACTIONS, PREFIXES):
        attempt(stores[f"team-a-{role}"], action, f"team-b/{prefix}")
    owner = stores["team-b-stages"]
    assert [owner.read(f"team-b/{prefix}/thing") for prefix in PREFIXES] == [b"of the team alone"] * len(PREFIXES)

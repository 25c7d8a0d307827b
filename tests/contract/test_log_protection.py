"""What a bucket policy keeps the gateway's credentials from, on a server that others run: SeaweedFS."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from ratchet_api.stage import StoreConfig
from ratchet_gateway.probing import log_protection
from ratchet_jobs.runtime.errors import StoreAccessDenied
from ratchet_jobs.runtime.store import Store, open_store
from tests.analyst_log import TrialLog, analyst
from tests.contract.seaweed import ADDER_KEY, ADDER_SECRET, BUCKET, SeaweedServer

pytestmark = pytest.mark.slow

LOG = f"arn:aws:s3:::{BUCKET}/lab/ns/log/*"
NO_DELETING = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": LOG}
NO_WRITING = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": LOG}


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def store(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    """As a gateway opens it, with credentials that are no administrator's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": ADDER_KEY,
        "AWS_SECRET_ACCESS_KEY": ADDER_SECRET,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return open_store(StoreConfig(uri=f"s3://{BUCKET}/lab", endpoint=seaweed.endpoint), patience_seconds=20)


def under(seaweed: SeaweedServer, *statements: dict[str, str]) -> None:
    """Put the bucket under a policy of these statements alone."""
    if statements:
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        seaweed.client().put_bucket_policy(Bucket=BUCKET, Policy=document)
    else:
        seaweed.client().delete_bucket_policy(Bucket=BUCKET)


def test_the_gateway_says_what_this_very_server_enforces(seaweed: SeaweedServer, store: Store) -> None:
    """P23: asked of the server each time, because none enforces everything that a policy can say."""
    assert store.create("ns/log/segment", b"acknowledged") is True
    assert log_protection(store, "ns").startswith("log: prefix only")
    under(seaweed, NO_DELETING)
    assert log_protection(store, "ns").startswith("log: no deleting, but the store lets these credentials overwrite")
    under(seaweed, NO_DELETING, NO_WRITING)
    assert log_protection(store, "ns").startswith("log: add only")
    under(seaweed)
    assert store.read("ns/log/segment") == b"acknowledged"


def test_under_the_documented_policy_nothing_acknowledged_can_be_deleted_in_either_way(
    seaweed: SeaweedServer, store: Store
) -> None:
    """P23: one by one and in bulk, with the gateway's own key; adding goes on."""
    assert store.create("ns/log/kept", b"acknowledged") is True
    under(seaweed, NO_DELETING)
    client, key = seaweed.client(ADDER_KEY, ADDER_SECRET), "lab/ns/log/kept"
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=BUCKET, Key=key)
    answer = client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})
    assert [each["Code"] for each in answer["Errors"]] == ["AccessDenied"]
    assert store.create("ns/log/another", b"acknowledged, too") is True
    assert store.read("ns/log/kept") == b"acknowledged"
    under(seaweed)


def test_an_analyst_counts_with_credentials_that_may_write_and_delete_nothing(
    seaweed: SeaweedServer, store: Store
) -> None:
    """P23: whoever takes it over changes no verdict."""
    log = TrialLog(store, namespace="team")
    log.answer("ann", "canary", 0)
    log.seal()
    everything = {"Resource": f"arn:aws:s3:::{BUCKET}/lab/team/*"}
    under(seaweed, NO_DELETING | everything, NO_WRITING | everything)
    with pytest.raises(StoreAccessDenied):
        store.write("team/log/planted", b"")
    watched = analyst(store, namespace="team")
    assert watched.see().split.counts == (1, 0)
    under(seaweed)
    log.answer("bob", "control", 9_990)
    log.seal(9_990)
    assert watched.see().split.counts == (1, 1)

"""The lab's S3 store keeps the promises that the stages' commit protocol needs, and can be taken away."""

from __future__ import annotations

import uuid
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from tests.lab.cluster import Lab

pytestmark = pytest.mark.cluster


def client(lab: Lab, identity: str = "admin") -> Any:
    access, secret = lab.s3_credentials(identity)
    return boto3.client(
        "s3",
        endpoint_url=lab.s3_endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5
        ),
    )


@pytest.fixture
def key() -> str:
    return f"lab-tests/{uuid.uuid4()}"


def test_a_conditional_put_refuses_the_second_writer_and_keeps_the_first(lab: Lab, key: str) -> None:
    with lab.inside():
        s3 = client(lab)
        s3.put_object(Bucket=lab.s3_bucket, Key=key, Body=b"first", IfNoneMatch="*")
        with pytest.raises(ClientError) as refusal:
            s3.put_object(Bucket=lab.s3_bucket, Key=key, Body=b"second", IfNoneMatch="*")
        assert refusal.value.response["Error"]["Code"] == "PreconditionFailed"
        assert s3.get_object(Bucket=lab.s3_bucket, Key=key)["Body"].read() == b"first"


@pytest.mark.parametrize(
    ("identity", "want_code"),
    [
        pytest.param("reader", "AccessDenied", id="a reader may not write"),
        pytest.param("stranger", "InvalidAccessKeyId", id="an unknown key may nothing"),
    ],
)
def test_writing_is_refused_with_the_right_reason(lab: Lab, key: str, identity: str, want_code: str) -> None:
    with lab.inside():
        s3 = client(lab, identity) if identity == "reader" else stranger(lab)
        with pytest.raises(ClientError) as refusal:
            s3.put_object(Bucket=lab.s3_bucket, Key=key, Body=b"x")
    assert refusal.value.response["Error"]["Code"] == want_code


def stranger(lab: Lab) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=lab.s3_endpoint,
        aws_access_key_id="AKIANOBODY",
        aws_secret_access_key="nothing",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def test_objects_survive_a_stop_and_a_kill_of_the_store(lab: Lab, key: str) -> None:
    with lab.inside():
        client(lab).put_object(Bucket=lab.s3_bucket, Key=key, Body=b"kept")
    with lab.without("s3"), lab.inside():
        assert lab.component_state("s3") == "stopped"
        with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
            client(lab).get_object(Bucket=lab.s3_bucket, Key=key)
    lab.kill("s3")
    lab.start("s3")
    with lab.inside():
        lab.wait_for(
            lambda: client(lab).get_object(Bucket=lab.s3_bucket, Key=key)["Body"].read() == b"kept",
            "the object to be readable after the store came back",
            60,
        )

"""S3, AWS's or any other server's, as a store: boto3 does transport, multipart, retries and signing.

Decides what a stage is told when S3 fails, and resolves conditional PUTs by reading back. Credentials come from
boto3's own chain (environment, mounted files, workload identity), never from a manifest.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from ratchet_api.stage import StoreConfig
from ratchet_jobs.runtime.errors import StoreAccessDenied, StoreError, StoreNotFound, StoreUnavailable
from ratchet_jobs.runtime.store import ObjectInfo, check_key

_MEAN_PAUSE_SECONDS = 10.0
"""botocore's standard mode pauses rand(0, 1) * min(2**n, 20) seconds between tries: 10 s on average once it is long."""

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401"}
_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_OPEN_OUTCOME = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_BODY_TRIES = 5
_CREATE_TRIES = 5


class S3Store:
    """Objects of one bucket below an optional prefix."""

    def __init__(self, config: StoreConfig, *, patience_seconds: float) -> None:
        """Make the client; nothing is sent yet."""
        parts = urlsplit(config.uri)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._endpoint = config.endpoint or "AWS"
        tries = max(3, round(patience_seconds / _MEAN_PAUSE_SECONDS) + 3)
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=config.endpoint,
            region_name=config.region,
            config=Config(
                connect_timeout=5,
                max_pool_connections=32,
                read_timeout=30,
                retries={"mode": "standard", "total_max_attempts": tries},
                s3={"addressing_style": "path" if config.endpoint else "auto"},
                # servers other than AWS may refuse the CRC trailer; our own SHA-256 guards what matters
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._transfer = TransferConfig(
            multipart_threshold=16 << 20,
            multipart_chunksize=16 << 20,
            max_concurrency=4,
            num_download_attempts=_BODY_TRIES,
        )

    @property
    def uri(self) -> str:
        """The root as an S3 URI."""
        return f"s3://{self._bucket}" + (f"/{self._prefix}" if self._prefix else "")

    def read(self, key: str) -> bytes:
        """Return the object's bytes; a body that breaks off is asked for again."""
        with self._explained(key):
            for attempt in range(1, _BODY_TRIES + 1):
                body = self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"]
                try:
                    data: bytes = body.read()
                except (BotoCoreError, OSError):
                    if attempt == _BODY_TRIES:
                        raise
                else:
                    return data
        raise AssertionError("unreachable: the last attempt returns or raises")

    def write(self, key: str, data: bytes) -> None:
        """Store the bytes with one PUT."""
        with self._explained(key):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data)

    def create(self, key: str, data: bytes) -> bool:
        """PUT with If-None-Match: *; any answer but plain success is resolved by reading back."""
        for attempt in range(1, _CREATE_TRIES + 1):
            try:
                with self._explained(key):
                    self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
            except _OutcomeOpen:
                try:
                    return self.read(key) == data
                except StoreNotFound:  # 409: it collided with another write or a delete, and nobody has won yet
                    if attempt == _CREATE_TRIES:
                        raise
            else:
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a file, in parallel parts when large."""
        with self._explained(key):
            self._client.download_file(self._bucket, self._key(key), str(path), Config=self._transfer)

    def upload(self, path: Path, key: str) -> None:
        """Copy a file into an object, as multipart upload when large."""
        with self._explained(key):
            self._client.upload_file(str(path), self._bucket, self._key(key), Config=self._transfer)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return every object below the prefix."""
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._key(prefix) + "/"
            )
            skip = len(self._prefix) + 1 if self._prefix else 0
            return sorted(
                ObjectInfo(entry["Key"][skip:], entry["Size"]) for page in pages for entry in page.get("Contents", [])
            )

    def exists(self, key: str) -> bool:
        """Tell whether the object exists."""
        try:
            with self._explained(key):
                self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except StoreNotFound:
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects one by one; the bulk call needs a checksum header that some servers refuse."""
        for key in keys:
            with self._explained(key):
                self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}" if self._prefix else check_key(key)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._translated(error, key) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreAccessDenied(
                f"object {self.uri}/{key} at {self._endpoint}: no credentials found; give "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in a cluster: the Secret named by the store settings)"
            ) from error
        except (S3UploadFailedError, RetriesExceededError) as error:
            cause = error.__context__ or error.__cause__
            if isinstance(cause, ClientError):
                raise self._translated(cause, key) from error
            raise StoreUnavailable(f"object {self.uri}/{key} at {self._endpoint}: {error}") from error
        except (BotoCoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise  # the disk here is full, the store is well
            raise StoreUnavailable(
                f"object {self.uri}/{key} at {self._endpoint}: {error}; is the endpoint right and up?"
            ) from error

    def _translated(self, error: ClientError, key: str) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        where = f"object {self.uri}/{key} at {self._endpoint}"
        said = error.response.get("Error", {}).get("Message") or code
        if code in _OPEN_OUTCOME or status in _OPEN_OUTCOME:
            return _OutcomeOpen(f"{where}: {said}")
        if code == "NoSuchBucket":
            return StoreNotFound(
                f"bucket {self._bucket} at {self._endpoint}: does not exist; create it or correct store.uri"
            )
        if code in _MISSING or status == "404":
            return StoreNotFound(f"{where}: does not exist; put it there or correct the URI")
        if code in _DENIED or status in {"401", "403"}:
            return StoreAccessDenied(
                f"{where}: {said} ({code}); correct the Secret that the store settings name, or its rights"
            )
        return StoreUnavailable(f"{where}: {said} ({code or status}) after all retries")


class _OutcomeOpen(StoreUnavailable):
    """A conditional PUT was answered 412 or 409: the key exists, and an earlier try of ours may be the winner."""

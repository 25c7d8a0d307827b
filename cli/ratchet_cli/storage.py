"""`ratchet put` and `ratchet digest`: data and models into the store that manifests name by store://PATH."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ratchet_api.names import STORE_CONFIGMAP
from ratchet_api.stage import StoreConfig
from ratchet_cli.errors import CliError, NotFound, UsageProblem
from ratchet_cli.home import DEFAULT_NAMESPACE, find_home
from ratchet_cli.options import Context, HomeDir, Namespace, Store
from ratchet_cli.screen import out, say
from ratchet_jobs.runtime.errors import StageError
from ratchet_jobs.runtime.store import Store as ObjectStore
from ratchet_jobs.runtime.store import open_store, resolve_uri

PATIENCE_SECONDS = 20.0
Endpoint = Annotated[str | None, typer.Option("--endpoint", help="S3 endpoint URL (env RATCHET_STORE_ENDPOINT).")]
InCluster = Annotated[
    bool, typer.Option("--cluster", help="Into the store that the namespace's ConfigMap ratchet-store names.")
]
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def put(
    source: Annotated[Path, typer.Argument(help="File or folder on this machine.", metavar="LOCAL")],
    target: Annotated[str, typer.Argument(help="store://PATH, as manifests name it.")],
    namespace: Namespace = None,
    store: Store = None,
    endpoint: Endpoint = None,
    cluster: InCluster = False,
    context: Context = None,
    home: HomeDir = None,
) -> None:
    """Copy a file or folder into the store: this machine's, an S3 bucket, or a cluster namespace's."""
    files = _files_of(source)
    if not target.startswith("store://") or not target.removeprefix("store://").strip("/"):
        raise UsageProblem(f"target {target!r} must be store://PATH")
    if cluster and store is not None:
        raise UsageProblem("--cluster and --store both name a store; choose one")
    config, space = store_config(cluster, store, endpoint, namespace, context, home)
    try:
        opened = open_store(config, patience_seconds=PATIENCE_SECONDS)
        prefix = resolve_uri(target, store=opened, namespace=space, field="target")
        if source.is_file() and target.endswith("/"):
            prefix = f"{prefix}/{source.name}"
        _upload(opened, files, source, prefix)
    except StageError as error:
        raise CliError(str(error)) from error
    except ImportError as error:
        raise CliError(f"an S3 store needs the package {error.name}; install ratchet[jobs]") from error
    size = sum(path.stat().st_size for path in files)
    say(f"{len(files)} file{'s' if len(files) != 1 else ''}, {size / 1e6:,.1f} MB -> {target} ({opened.uri}/{prefix})")
    if source.is_dir() and (source / "config.json").exists():
        say(f"sha256 for spec.baseModel: {folder_digest(source)}")


def folder_digest(folder: Path) -> str:
    """Return the digest of a model folder, as spec.baseModel.sha256 wants it.

    Raises:
        NotFound: the folder does not exist.
        CliError: it holds no usable model.
    """
    from ratchet_jobs.data.base_model import local_digest

    if not folder.is_dir():
        raise NotFound(f"{folder} is no folder; give the one that holds config.json and *.safetensors")
    try:
        return local_digest(folder)
    except StageError as error:
        raise CliError(str(error)) from error


def _files_of(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise NotFound(f"{source} does not exist; name a file or a folder on this machine")
    files = sorted(
        p
        for p in source.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(source).parts)
    )
    if not files:
        raise CliError(f"{source} holds no file (names that begin with a dot are left out)")
    return files


def _upload(store: ObjectStore, files: list[Path], source: Path, prefix: str) -> None:
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("copying", total=sum(path.stat().st_size for path in files))
        for path in files:
            key = prefix if source.is_file() else f"{prefix}/{path.relative_to(source).as_posix()}"
            store.upload(path, key)
            progress.advance(task, path.stat().st_size)


def store_config(
    cluster: bool, store: str | None, endpoint: str | None, namespace: str | None, context: str | None, home: str | None
) -> tuple[StoreConfig, str]:
    """Return the store that the options mean and the namespace; S3 credentials are put into the environment.

    Raises:
        NotFound: the cluster's namespace names no store of its own.
    """
    endpoint = endpoint or os.environ.get("RATCHET_STORE_ENDPOINT") or None
    region = os.environ.get("RATCHET_STORE_REGION") or "us-east-1"
    if not cluster:
        uri = find_home(home, store).store_uri
        return StoreConfig(uri=uri, endpoint=endpoint, region=region), namespace or DEFAULT_NAMESPACE
    from ratchet_cli.remote import RemoteBackend

    backend = RemoteBackend(context=context, namespace=namespace)
    settings = backend.read("configmaps", STORE_CONFIGMAP)
    if settings is None:
        raise NotFound(
            f"namespace {backend.namespace!r} has no ConfigMap {STORE_CONFIGMAP}; name the chart's store by --store "
            f"and --endpoint, with -n {backend.namespace} and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set"
        )
    data: Mapping[str, str] = settings.get("data", {})
    if data.get("secretName") and not os.environ.get(_CREDENTIALS[0]):
        secret = backend.read("secrets", data["secretName"])
        for name in _CREDENTIALS:
            if secret is not None and name in secret.get("data", {}):
                os.environ[name] = base64.b64decode(secret["data"][name]).decode()
    config = StoreConfig(
        uri=data.get("uri", ""), endpoint=endpoint or data.get("endpoint"), region=data.get("region", region)
    )
    return config, backend.namespace

"""Options that several verbs share, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

from ratchet_cli.backend import Backend, choose_local
from ratchet_cli.errors import UsageProblem
from ratchet_cli.home import DEFAULT_NAMESPACE, find_home

Files = Annotated[
    list[str],
    typer.Option("-f", "--filename", help="File, folder with *.yaml, or - for standard input; may be repeated."),
]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace. If omitted, the context's (locally: default).")
]
Local = Annotated[
    bool | None,
    typer.Option(
        "--local/--cluster", help="Runs of this machine, or a cluster. If omitted: local if RATCHET_HOME is set."
    ),
]
Context = Annotated[str | None, typer.Option("--context", help="kubeconfig context.", metavar="NAME")]
HomeDir = Annotated[
    str | None,
    typer.Option("--home", help="State directory of local runs (env RATCHET_HOME, default ./.ratchet).", metavar="DIR"),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Data and artifacts: a directory or s3://BUCKET/PREFIX (env RATCHET_STORE, default HOME/store).",
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option("--log-level", help="debug, info, warning or error (env RATCHET_LOG_LEVEL).", metavar="LEVEL"),
]


def open_backend(*, local: bool | None, context: str | None, namespace: str | None, home: str | None) -> Backend:
    """Return the place that the options mean.

    Raises:
        UsageProblem: --home or --local together with --context.
    """
    if local is None and home is not None:
        local = True
    if choose_local(local):
        if context is not None:
            raise UsageProblem(
                "--context names a cluster, --local, --home and RATCHET_HOME name this machine; choose one"
            )
        from ratchet_cli.local import LocalBackend

        return LocalBackend(find_home(home), namespace or DEFAULT_NAMESPACE)
    from ratchet_cli.remote import RemoteBackend

    return RemoteBackend(context=context, namespace=namespace)

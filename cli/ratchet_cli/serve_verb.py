"""`ratchet serve`: a trained version answers over HTTP on this machine, as the policy server does in a cluster.

Decides the address (loopback, since nobody is asked for a token) and how the answers call the policy. Everything else
is the policy server's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratchet_api.environment import SettingsError
from ratchet_api.generation import KeptGeneration
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.screen import out, say
from ratchet_cli.trained import explained, opened, policy_folder
from ratchet_cli.versions import VERSION_HELP, BaseFolder, Place, Version, find_version

if TYPE_CHECKING:
    from ratchet_jobs.models.classifier import LoadedPolicy
    from ratchet_serving.loading import LoadedGenerator

HOST = "127.0.0.1"


def serve(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="Port on 127.0.0.1.")] = 8080,
    base: BaseFolder = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Serve a trained version on this machine until Ctrl-C: POST /v1/classify, or OpenAI's routes of a generator."""
    try:
        from ratchet_serving.app import GeneratorParts
        from ratchet_serving.serving import listen, parts_of, serve
        from ratchet_serving.settings import Settings
    except ImportError as error:
        raise CliError(f"serving needs the package {error.name}; install ratchet[serving]") from error
    found = find_version(version, Place(namespace, local, context, home), served=True)
    try:
        door = listen(HOST, port)
    except OSError as error:
        raise CliError(f"--port {port}: {error.strerror} on {HOST}; choose another --port") from error
    policy, number = _called(found)
    config = found.generation or KeptGeneration()
    settings = Settings(policy=policy, version=number, host=HOST, port=port, generation=config, log_level="warning")
    with door, _loaded(found, base=base) as loaded:
        digest = "" if not hasattr(found.files, "digest") else found.files.digest
        try:
            parts = parts_of(settings, loaded, digest=digest)
        except SettingsError as error:
            raise CliError(f"{found.title}: {error}") from error
        route = "/v1/chat/completions" if isinstance(parts, GeneratorParts) else "/v1/classify"
        out.print(f"[good]serving[/]   [name]{found.title}[/]   http://{HOST}:{port}{route}", soft_wrap=True)
        say(f"API: http://{HOST}:{port}/docs   no token, this machine only   Ctrl-C ends it")
        serve(settings, parts, door=door)


@contextmanager
def _loaded(version: Version, *, base: Path | None) -> Iterator[LoadedPolicy | LoadedGenerator]:
    from ratchet_jobs.data.policy_folder import is_generator
    from ratchet_serving.loading import load_generator

    with tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        with explained(version.title):
            folder = policy_folder(version, Path(scratch))
            generator = load_generator(folder) if is_generator(folder) else None
        if generator is None:
            with opened(replace(version, files=folder), base=base) as policy:
                yield policy
        elif base is not None:
            raise UsageProblem(
                f"--base {base}: {version.title} is a generator, which is served whole; leave --base out"
            )
        else:
            yield generator


def _called(version: Version) -> tuple[str, int | None]:
    """Return how answers name the policy, and its number where it is published."""
    policy, at, number = version.title.rpartition("@")
    return (policy, int(number)) if at and number.isdecimal() else (version.title, None)

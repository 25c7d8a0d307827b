"""One server put together from a loaded policy, and run until it is told to stop.

Decides the device, the socket, and how the end is drawn out. Shared by the container's `__main__`
and by `ratchet serve`.
"""

from __future__ import annotations

import gc
import socket

import torch
import uvicorn

from ratchet_api.client import GatewayClient
from ratchet_api.environment import SettingsError
from ratchet_api.generation import OF_CLASSIFIERS, OF_GENERATORS
from ratchet_api.signing import KeyRing
from ratchet_jobs.models.classifier import LoadedPolicy
from ratchet_serving.app import GeneratorParts, Parts, create_app
from ratchet_serving.engine import Engine
from ratchet_serving.generation.answers import check_defaults
from ratchet_serving.generation.decoder import Decoder
from ratchet_serving.loading import LoadedGenerator, RemoteGenerator
from ratchet_serving.settings import Settings

PATIENCE_SECONDS = 5.0
"""How long one request to the gateway is tried again before the recorder takes a rest."""


def parts_of(
    settings: Settings, policy: LoadedPolicy | LoadedGenerator | RemoteGenerator, *, digest: str
) -> Parts | GeneratorParts:
    """Make what an application needs.

    Raises:
        BadKey: the signing keys cannot be used.
        SettingsError: the gateway's token cannot be read, or the generation config is not for this policy.
    """
    _check_generation(settings, policy)
    gateway = None
    if settings.gateway_url is not None:
        gateway = GatewayClient(settings.gateway_url, token=_token(settings), patience_seconds=PATIENCE_SECONDS)
    ring = None if settings.signing_keys is None else KeyRing.from_directory(settings.signing_keys)
    if isinstance(policy, RemoteGenerator):
        check_defaults(policy.wording, policy.remote.context, settings.generation)
        return GeneratorParts(policy.remote, policy.wording, digest, ring, gateway)
    if isinstance(policy, LoadedGenerator):
        decoder = Decoder(policy.model, max_tokens=settings.streams.cache_tokens)
        check_defaults(policy.wording, decoder.context, settings.generation)
        return GeneratorParts(decoder, policy.wording, digest, ring, gateway)
    engine = Engine(policy, max_tokens=settings.max_batch_tokens, device=_device())
    return Parts(engine, policy.card, digest, ring, gateway)


def _check_generation(settings: Settings, policy: LoadedPolicy | LoadedGenerator | RemoteGenerator) -> None:
    given = settings.generation.to_wire()
    classifies = isinstance(policy, LoadedPolicy)
    if odd := next((name for name in (OF_GENERATORS if classifies else OF_CLASSIFIERS) if name in given), None):
        kind = "a classifier" if classifies else "a generator"
        raise SettingsError(f"RATCHET_SERVING_GENERATION: {odd} means nothing to {kind}, which is served; remove it")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a taken port is told before the model is loaded.

    Raises:
        OSError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((host, port))
        door.listen(2048)
    except OSError:
        door.close()
        raise
    return door


def serve(settings: Settings, parts: Parts | GeneratorParts, *, door: socket.socket) -> None:
    """Answer on a listening socket until SIGTERM or SIGINT, then answer what was accepted."""
    gc.freeze()  # little of what lives until the end is garbage: look for it seldom
    gc.set_threshold(50_000, 50, 100)
    config = uvicorn.Config(
        create_app(settings, parts),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds) or 1,
    )
    try:
        uvicorn.Server(config).run(sockets=[door])
    finally:
        gc.unfreeze()  # else libraries that count their own objects at exit report them as leaked


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _token(settings: Settings) -> str | None:
    if settings.gateway_token_file is None:
        return None
    try:
        return settings.gateway_token_file.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"RATCHET_SERVING_GATEWAY_TOKEN_FILE={str(settings.gateway_token_file)!r}: {error.strerror}; mount it there"
        ) from error

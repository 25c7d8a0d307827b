"""The files of several policies that were trained together on one trunk.

    policy.json, adapter_model.safetensors, …   the first agent's, which is the run's policy
    agents/NAME/                                each other agent's, whole: a generator like any other, with its merged
                                                model once it was evaluated, unless it was frozen
    agents.json                                 their names in order, and of the others the digest by which
                                                `startFrom.artifact` names them

Decides where an agent lies; torch-free. Written by the recipes `rl_agents` and `evaluate_agents`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ratchet_api.rlhf import Agent
from ratchet_api.stage import artifact_digest
from ratchet_jobs.runtime.store import sha256_file

AGENTS_FILE = "agents.json"
AGENTS_FOLDER = "agents"


class AgentFiles(BaseModel):
    """An entry of agents.json: where an agent's policy lies."""

    model_config = ConfigDict(frozen=True)

    name: str
    frozen: bool
    folder: str
    """Below the artifact; the first agent's is `.`."""
    digest: str | None = None
    """By which the folder is named as an artifact; None = it is the artifact itself."""


def agent_folder(root: Path, name: str) -> Path:
    """Where an agent lies that is not the first."""
    return root / AGENTS_FOLDER / name


def write_agents(root: Path, agents: Sequence[Agent]) -> None:
    """Write agents.json, once all files of the agents are there."""
    found: list[AgentFiles] = []
    for place, agent in enumerate(agents):
        folder = agent_folder(root, agent.name)
        digest = None if place == 0 else _digest(folder)
        where = "." if place == 0 else folder.relative_to(root).as_posix()
        found.append(AgentFiles(name=agent.name, frozen=agent.frozen, folder=where, digest=digest))
    listed = [each.model_dump(exclude_none=True) for each in found]
    (root / AGENTS_FILE).write_text(json.dumps(listed, indent=1) + "\n")


def _digest(folder: Path) -> str:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return artifact_digest({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})

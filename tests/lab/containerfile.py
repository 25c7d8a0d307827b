"""The little of a Containerfile that the lab needs: the RUN lines of its stages and the final image config.

images/*/Containerfile is what users build with; the lab makes the same layers by running the same install.py lines on
the host. This reader refuses what it does not know, so that the two cannot drift apart unnoticed. Pure.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

from tests.lab.settings import LabError


@dataclass
class Stage:
    """One FROM section."""

    name: str
    runs: list[list[str]] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    config: dict[str, object] = field(default_factory=dict)


def parse(text: str, arguments: dict[str, str]) -> list[Stage]:
    """Split a Containerfile into stages, with build arguments filled in.

    Args:
        text: the Containerfile.
        arguments: build arguments; they win over the defaults of ARG.

    Raises:
        LabError: an instruction, or a RUN that is not a call of install.py, that the lab could not reproduce.
    """
    values: dict[str, str] = {}
    stages: list[Stage] = []
    for line in _instructions(text):
        word, _, rest = line.partition(" ")
        if word == "ARG":
            name, _, default = rest.strip().partition("=")
            values[name] = arguments.get(name, default)
            continue
        rest = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], rest.strip())
        if word == "FROM":
            parts = rest.split()
            stages.append(Stage(parts[2] if len(parts) == 3 else ""))
        elif not stages:
            raise LabError(f"Containerfile: {word} before the first FROM")
        else:
            _apply(stages[-1], word, rest)
    return stages


def _apply(stage: Stage, word: str, rest: str) -> None:
    if word == "RUN":
        command = shlex.split(rest)
        if command[:2] != ["python3", "/src/images/install.py"]:
            raise LabError(
                f"Containerfile: the lab can only reproduce RUN python3 /src/images/install.py …, found RUN {rest}"
            )
        stage.runs.append(command)
    elif word == "COPY":
        stage.copies.append(rest)
    elif word == "ENV":
        environment = stage.config.setdefault("Env", [])
        assert isinstance(environment, list)
        environment.extend(shlex.split(rest))
    elif word == "USER":
        stage.config["User"] = rest
    elif word == "WORKDIR":
        stage.config["WorkingDir"] = rest
    elif word == "ENTRYPOINT":
        stage.config["Entrypoint"] = json.loads(rest)
    else:
        raise LabError(
            f"Containerfile: instruction {word} is unknown to the lab; teach tests/lab/containerfile.py what it means"
        )


def _instructions(text: str) -> list[str]:
    """Logical lines: comments and blank lines dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines()]

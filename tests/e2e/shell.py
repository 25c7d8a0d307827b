"""A folder in which a user types `ratchet` commands: each is a process of its own, without a cluster."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.tiny_bert import write_tiny_bert

PATIENCE_SECONDS = 600.0
"""Stages import torch; on a busy machine with two cores that alone can take a minute each."""
RATCHET = (sys.executable, "-c", "from ratchet_cli.main import app; app()")

DATASET = """
apiVersion: ratchet.dev/v1alpha1
kind: FeedbackDataset
metadata: {name: mail}
spec:
  type: classification
  source:
    objects: [{uri: "store://mail/rows.csv"}]
  columns: {text: body, label: team}
"""
POLICY = """
apiVersion: ratchet.dev/v1alpha1
kind: RLPolicy
metadata: {name: router}
spec: {type: classifier}
"""


class Shell:
    """A folder in which a user types `ratchet` commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        unset = ("RATCHET_HOME", "RATCHET_STORE", "RATCHET_LOG_LEVEL")
        self.environment = {k: v for k, v in os.environ.items() if k not in unset} | {"COLUMNS": "200"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*RATCHET, *words], cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == code, f"{words}: exit {process.returncode}\n{out}\n{err}"
        return out + err

    def object(self, plural: str, name: str) -> dict[str, Any]:
        """Read an object of the state directory."""
        found: dict[str, Any] = json.loads((self.folder / f".ratchet/objects/{plural}/default/{name}.json").read_text())
        return found

    def put_tiny_model(self) -> str:
        """Put a small BERT into the store; returns its digest."""
        write_tiny_bert(self.folder / "tiny")
        printed = self("put", "tiny", "store://models/tiny")
        return printed.split("sha256 for spec.baseModel: ")[1].split()[0]

    def put_mail(self, rows: list[tuple[str, str]]) -> None:
        """Put rows of text and label into the store."""
        with (self.folder / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("body", "team"))
            writer.writerows(rows)
        self("put", "rows.csv", "store://mail/rows.csv")

"""The errors that a stage ends with; each carries the exit code that the operator decides by.

StageError
├── BadDataError            10  rows that cannot be used
├── BadConfigError          11  settings that do not fit data or model
├── BadLabelsError          12  labels that do not allow training
├── BadModelError           13  a base model that cannot be loaded or is not the one named
├── StoreError
│   ├── StoreUnavailable    20  no answer, or the answer is "later"
│   ├── StoreAccessDenied   21  credentials refused
│   ├── StoreNotFound       22  bucket or object missing
│   └── StoreCorrupt        23  bytes differ from the recorded checksum
├── NotANumberError         30  loss or gradient is NaN or infinite
├── DivergedError           31  a circuit breaker fired
├── NoSupportError          32  a log that says too little about the policy that learns from it
├── AcceleratorError        40  the device failed
├── JudgeUnavailable        50  a judge over HTTP does not answer
└── Preempted               75  asked to leave; a checkpoint is written
    └── PeerLost            75  another node of the stage left or died; all start over from the last checkpoint

A message names the object, the field, the value seen and the remedy; it ends up in the run's status.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar

from ratchet_api.stage import ExitCode


class StageError(Exception):
    """Base of all errors that end a stage in an orderly way."""

    code: ClassVar[ExitCode] = ExitCode.CRASHED


class BadDataError(StageError):
    """Rows that cannot be used."""

    code = ExitCode.BAD_DATA


class BadConfigError(StageError):
    """Settings that do not fit the data or the model."""

    code = ExitCode.BAD_CONFIG


class BadLabelsError(StageError):
    """Labels that do not allow training."""

    code = ExitCode.BAD_LABELS


class BadModelError(StageError):
    """A base model that cannot be loaded, or is not the one that was named."""

    code = ExitCode.BAD_MODEL


class StoreError(StageError):
    """Base of what the store can do to us; all of these may heal."""

    code = ExitCode.STORE_UNAVAILABLE


class StoreUnavailable(StoreError):
    """The store does not answer, or asks to come back later."""


class StoreAccessDenied(StoreError):
    """The store refuses the credentials."""

    code = ExitCode.STORE_ACCESS_DENIED


class StoreNotFound(StoreError):
    """The bucket or the object does not exist."""

    code = ExitCode.STORE_NOT_FOUND


class StoreCorrupt(StoreError):
    """The bytes are not those that were recorded."""

    code = ExitCode.STORE_CORRUPT


class NotANumberError(StageError):
    """Loss or gradient became NaN or infinite."""

    code = ExitCode.NOT_A_NUMBER


class DivergedError(StageError):
    """A circuit breaker fired."""

    code = ExitCode.DIVERGED


class NoSupportError(StageError):
    """The log of another policy's answers says too little about this one."""

    code = ExitCode.NO_SUPPORT


class AcceleratorError(StageError):
    """The device failed."""

    code = ExitCode.ACCELERATOR_FAULT


class JudgeUnavailable(StageError):
    """A judge over HTTP does not answer, or asks to come back later."""

    code = ExitCode.JUDGE_UNAVAILABLE


class Preempted(StageError):
    """The pod was asked to leave and its checkpoint is written."""

    code = ExitCode.PREEMPTED


class PeerLost(Preempted):
    """Another node of the stage left without saying so, or died; nobody can go on without it."""


def is_disk_full(error: BaseException) -> bool:
    """Tell whether the local disk had no room; safetensors and DuckDB say so in words of their own."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    said = {"SafetensorError": f"os error {errno.ENOSPC}", "IOException": os.strerror(errno.ENOSPC)}
    return said.get(type(error).__name__, "\0") in str(error)

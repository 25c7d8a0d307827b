"""A router's `classifier.rl_training` block as Ratchet's objects, and the name of everything that has no place there.

Decides where the block is looked for, which objects are made, and what is said of the rest of the file. `rlhf` blocks
are about generators, which another type of run trains by fields of its own: each of their settings is named. Pure;
used by `convert_verb`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ratchet_api.base import API_VERSION
from ratchet_cli.conversion_settings import REWARD_SETTINGS, RL_FIELDS, Note, Settings

BLOCK, GENERATOR_BLOCK = "rl_training", "rlhf"
UNKNOWN_SHA256 = "0" * 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the block does not say.

    Attributes:
        name: of the objects that are made.
        base_uri: of the base model; None = said by a note.
        base_sha256: likewise.
        data_uri: of the rows; None = as the block says, else said by a note.
        text: column of the text.
        label: column of the label.
    """

    name: str
    base_uri: str | None
    base_sha256: str | None
    data_uri: str | None
    text: str
    label: str


@dataclass(slots=True)
class Conversion:
    """What became of a configuration."""

    manifests: list[dict[str, Any]] = field(default_factory=list)
    unmapped: list[Note] = field(default_factory=list)
    """Settings that are in no manifest."""
    to_set: list[Note] = field(default_factory=list)
    """Fields of the manifests that the configuration says nothing about."""


def convert(document: Any, wanted: Wanted) -> Conversion:
    """Convert one configuration.

    Args:
        document: what the file holds.
        wanted: what it cannot say.

    Returns:
        No manifests if there is no `rl_training` block.

    Raises:
        ValueError: the document is no mapping, or a block is none, or there are two of them; names path and remedy.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"the file holds a {type(document).__name__}, not a mapping; give the router's config.yaml")
    result = Conversion()
    for path, block in _blocks(document, GENERATOR_BLOCK):
        result.unmapped += _generator_notes(path, block)
    blocks = list(_blocks(document, BLOCK))
    if len(blocks) > 1:
        places = ", ".join(path for path, _ in blocks)
        raise ValueError(f"there are {len(blocks)} {BLOCK} blocks: {places}; keep the one to be converted")
    for path, block in blocks:
        if not isinstance(block, Mapping):
            raise ValueError(f"{path} is {block!r}, not a mapping; give it settings such as algorithm: ppo")
        _convert_block(path, block, wanted, result)
        result.unmapped += _neighbour_notes(document, path)
    return result


def _blocks(value: Any, name: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below a key of that name, with its path; nothing inside one is looked at again."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            here = f"{path}.{key}".lstrip(".")
            if key == name:
                yield here, part
            else:
                yield from _blocks(part, name, here)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}")
    else:
        yield path, value


def _generator_notes(path: str, block: Any) -> list[Note]:
    why = "is about training a generator, and blocks of that name have no fixed fields"
    remedy = "write a run of policyType generator with stages.rlhf, see docs/how-to/train-a-generator.md"
    return [Note(place, value, why, remedy) for place, value in _leaves(block, path)]


def _neighbour_notes(document: Mapping[str, Any], path: str) -> list[Note]:
    """What stands beside the block and looks as if it were converted."""
    parent: Any = document
    for key in path.split(".")[:-1]:
        parent = parent[key]
    above = path.rsplit(".", 1)[0] if "." in path else ""
    notes = []
    for place, value in _leaves({key: part for key, part in parent.items() if key != BLOCK}, above):
        name = place.rsplit(".", 1)[-1]
        if name == "threshold":
            remedy = "set spec.evaluation.abstainTargetAccuracy, and the threshold is fitted"
            notes.append(Note(place.lstrip("."), value, "is a confidence fitted to another model", remedy))
        if name == "model_id":
            remedy = "name the encoder that training starts from in spec.baseModel"
            notes.append(Note(place.lstrip("."), value, "is a trained classifier, not the base of one", remedy))
    return notes


def _convert_block(path: str, block: Mapping[str, Any], wanted: Wanted, result: Conversion) -> None:
    run = Settings()
    settings = list(_settings(path, block))
    is_on = block.get("enabled", False)  # as the block's own default has it
    if not isinstance(is_on, bool):
        raise ValueError(f"{path}.enabled is {is_on!r}; write true or false")
    for place, name, value in sorted(settings, key=lambda each: each[1] != "algorithm"):  # others depend on it
        run.convert(place, name, value)
    if not is_on:
        off = "is a setting of RL, which is not enabled"
        names = {place: value for place, name, value in settings if name in RL_FIELDS or name in REWARD_SETTINGS}
        kept = [note for note in run.notes if note.path not in names]
        run.notes = kept + [Note(place, value, off, "set enabled: true to keep it") for place, value in names.items()]
    result.unmapped += run.notes
    of_block = run.top.pop("dataset", None)
    data_uri = wanted.data_uri or of_block
    result.manifests += [_dataset(wanted, data_uri), _training_run(wanted, run, is_on=is_on)]
    result.to_set += _left_to_set(wanted, data_uri)


def _settings(path: str, block: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of each setting; a block named after the algorithm in use belongs to it."""
    algorithm = str(block.get("algorithm", "ppo")).lower()
    for key, value in block.items():
        if isinstance(value, Mapping) and str(key).lower() == algorithm:
            yield from ((f"{path}.{key}.{inner}", str(inner), part) for inner, part in value.items())
        elif isinstance(value, Mapping) and value:
            for place, part in _leaves(value, f"{path}.{key}"):
                yield place, place.removeprefix(f"{path}."), part
        elif key != "enabled":
            yield f"{path}.{key}", str(key), value


def _left_to_set(wanted: Wanted, data_uri: str | None) -> list[Note]:
    notes = []
    if wanted.base_uri is None:
        why, remedy = "the configuration names no base encoder", "put its folder there with `ratchet put`"
        notes.append(Note("RLTrainingRun spec.baseModel.uri", _base_uri(wanted), why, remedy))
    if wanted.base_sha256 is None:
        why, remedy = "the base is pinned by digest", "set what `ratchet digest FOLDER` prints"
        notes.append(Note("RLTrainingRun spec.baseModel.sha256", UNKNOWN_SHA256, why, remedy))
    if data_uri is None:
        why, remedy = "the configuration names no rows", "put them there with `ratchet put`, or correct the URI"
        notes.append(Note("FeedbackDataset spec.source.objects", _data_uri(wanted), why, remedy))
    return notes


def _base_uri(wanted: Wanted) -> str:
    return wanted.base_uri or "store://models/base"


def _data_uri(wanted: Wanted) -> str:
    return f"store://{wanted.name}/rows.csv"


def _dataset(wanted: Wanted, data_uri: str | None) -> dict[str, Any]:
    spec = {
        "type": "classification",
        "source": {"objects": [{"uri": data_uri or _data_uri(wanted)}]},
        "columns": {"text": wanted.text, "label": wanted.label},
        "split": {"trainPercent": 80, "validationPercent": 10, "testPercent": 10},
    }
    return _manifest("FeedbackDataset", wanted.name, spec)


def _training_run(wanted: Wanted, run: Settings, *, is_on: bool) -> dict[str, Any]:
    stages = {name: run.parts[name] for name in ("supervised",) if run.parts[name]}
    if is_on:
        stages["rl"] = run.parts["rl"]
    spec: dict[str, Any] = {
        "policyType": "classifier",
        "mode": "supervised_then_rl" if is_on else "supervised",
        "baseModel": {"uri": _base_uri(wanted), "sha256": wanted.base_sha256 or UNKNOWN_SHA256},
        "datasetRef": {"name": wanted.name},
        **run.top,
    }
    if run.parts["lora"]:
        spec["lora"] = run.parts["lora"]
    return _manifest("RLTrainingRun", wanted.name, spec | ({"stages": stages} if stages else {}))


def _manifest(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}

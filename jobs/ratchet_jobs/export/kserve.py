"""`kserve`: a generator as KServe's Hugging Face server loads it, and the InferenceService that names it.

Decides which files the folder has and what the service is told. The server infers the task from the architecture's name
and reads safetensors, tokenizer and chat template as transformers does; a committed generator has them in one folder
already, so that a published version is served from where it lies. Classifiers are `kserve_classifier`'s, since no class
of transformers that the server knows computes one. Called by `ratchet export`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ratchet_api import __version__
from ratchet_api.base import ApiModel, Sha256
from ratchet_api.stage import artifact_digest
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.data.policy_folder import digests_of
from ratchet_jobs.export.exporting import Provenance
from ratchet_jobs.export.record import README_FILE, RECORD_FILE
from ratchet_jobs.export.writing import whole_folder
from ratchet_jobs.generators.artifact import MERGED_FOLDER
from ratchet_jobs.generators.card import GeneratorCard, read_generator_card
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

MODEL_FOLDER, SERVICE_FILE = "model", "inferenceservice.yaml"
TASK = "text_generation"
LOADER = "KServe's Hugging Face server (kserve-huggingfaceserver)"
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_CAUSAL = "ForCausalLM"
_SCHEMES = ("s3://", "gs://", "https://", "http://", "pvc://", "hf://", "oci://")


class KServeFacts(ApiModel):
    """What stands in ratchet_export.json of this layout, whatever kind of policy it is."""

    format: Literal["ratchet.dev/export-v1"] = "ratchet.dev/export-v1"
    layout: Literal["kserve"] = "kserve"
    version: str
    """The trained version, as the command line named it."""
    policy_digest: Sha256
    """Of the policy's own committed files."""
    snapshot: Sha256 | None = None
    """Digest of the rows that it was trained on, if known."""
    base_model: BaseModelRef
    max_tokens: Annotated[int, Field(ge=4)]
    """Longest text, of a generator prompt and answer together, as they were in training."""
    storage_uri: str
    """Where the service reads the model."""
    ratchet_version: str
    digest: Sha256
    """SHA-256 over the sorted list of (path, sha256) in `files`."""
    files: dict[str, Sha256]
    """Every other file of the folder."""


class KServeRecord(KServeFacts):
    """Likewise of a generator."""

    loader: str = LOADER
    """What loads the folder."""
    template: Literal["chat", "plain"]
    """chat = the tokenizer's own chat template; plain = whoever asks words the prompt."""


@dataclass(frozen=True, slots=True)
class Service:
    """The InferenceService.

    Attributes:
        name: of it, and of the model in requests.
        namespace: of it.
        storage_uri: where KServe reads the model.
    """

    name: str
    namespace: str
    storage_uri: str

    def manifest(
        self, predictor: Mapping[str, Any], *, digest: str, annotations: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return it around a predictor; `digest` is that of the policy's committed files."""
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "annotations": {"ratchet.dev/digest": digest, **(annotations or {})},
            },
            "spec": {"predictor": dict(predictor)},
        }


def storage_uri(given: str | None, committed: str | None, *, version: str) -> str:
    """Return where KServe shall read the model.

    Args:
        given: by the user; None = where the version was committed.
        committed: URI of the version's folder; None = it is a folder of this machine.
        version: for messages.

    Raises:
        BadConfigError: KServe reads from no such place.
    """
    uri = given or (f"{committed}/{MERGED_FOLDER}" if committed else "")
    if not uri.startswith(_SCHEMES):
        raise BadConfigError(
            f"{version} lies at {uri or 'a folder of this machine'}, from where KServe reads nothing; upload the "
            f"{MODEL_FOLDER}/ that is written and name that place by --storage-uri, as in s3://BUCKET/PATH"
        )
    return uri


def check_generator(folder: Path, *, version: str) -> GeneratorCard:
    """Refuse what KServe's server would not load, or load as something else.

    Raises:
        BadModelError: files are missing, or the architecture is none that the server takes for a language model.
    """
    card, model = read_generator_card(folder), folder / MERGED_FOLDER
    missing = [name for name in NEEDED if not (model / name).is_file()]
    if missing or not list(model.glob("*.safetensors")):
        raise BadModelError(
            f"{version}: {MERGED_FOLDER}/ lacks {', '.join(missing) or '*.safetensors'}; name a version that was "
            "evaluated, which writes it"
        )
    names = json.loads((model / "config.json").read_text()).get("architectures") or ["none"]
    if not str(names[0]).endswith(_CAUSAL):
        raise BadModelError(
            f"{version}: config.json names the architecture {names[0]}, and KServe's server takes only names that end "
            f"in {_CAUSAL} for language models; serve it with spec.serving"
        )
    return card


def service_manifest(service: Service, card: GeneratorCard, *, digest: str) -> dict[str, Any]:
    """Return the InferenceService; the resources are whoever applies it to say."""
    arguments = [f"--model_name={service.name}", f"--task={TASK}", "--dtype=float32"]
    model = {"modelFormat": {"name": "huggingface"}, "args": arguments, "storageUri": service.storage_uri}
    return service.manifest({"model": model}, digest=digest, annotations={"ratchet.dev/template": card.template})


def export_generator(
    folder: Path, *, target: Path, force: bool, service: Service, text: str, provenance: Provenance
) -> KServeRecord:
    """Write the folder: the model as KServe loads it, and the service.

    Args:
        folder: the committed files, checked by their digest and by `check_generator`.
        target: the folder that it becomes.
        force: whether an earlier export there is replaced.
        service: what the service is.
        text: the service as YAML.
        provenance: for the record.

    Raises:
        BadConfigError: the target must not be written.
    """
    card = read_generator_card(folder)
    with whole_folder(target, force=force) as partial:
        shutil.copytree(folder / MERGED_FOLDER, partial / MODEL_FOLDER)
        (partial / SERVICE_FILE).write_text(text, encoding="utf-8")
        (partial / README_FILE).write_text(_readme(card, service, provenance), encoding="utf-8")
        files = digests_of(partial)
        record = KServeRecord(
            version=provenance.title,
            policy_digest=provenance.digest,
            snapshot=provenance.snapshot,
            base_model=card.base_model,
            template=card.template,
            max_tokens=card.max_tokens,
            storage_uri=service.storage_uri,
            ratchet_version=__version__,
            digest=artifact_digest(files),
            files=files,
        )
        (partial / RECORD_FILE).write_text(record.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
    return record


def _readme(card: GeneratorCard, service: Service, provenance: Provenance) -> str:
    asked = (
        "The tokenizer has the chat template that the policy was trained with: ask `/openai/v1/chat/completions`."
        if card.template == "chat"
        else "The policy has no chat template: ask `/openai/v1/completions`, worded as in training: a line per turn "
        "that begins with who speaks, such as `User: `, and `Assistant:` at the end."
    )
    return f"""\
# {provenance.title}, exported as `kserve`

`{MODEL_FOLDER}/` is what {LOADER} loads, `{SERVICE_FILE}` the service, which reads the same files at
`{service.storage_uri}`:

```console
kubectl apply -f {SERVICE_FILE}
```

{asked} Prompt and answer had at most {card.max_tokens} tokens in training.

- The weights are float32, as they were measured, and so is the service; `--dtype=bfloat16` takes half the memory and
  answers a little differently.
- It names no resources: add `spec.predictor.model.resources` with `nvidia.com/gpu` for a GPU.
- A private bucket needs KServe's own credentials: `spec.predictor.serviceAccountName` with a Secret that KServe reads.
- KServe checks no digest. `{RECORD_FILE}` has SHA-256 of each file and of the policy, `{provenance.digest}`.
- What it answers is recorded nowhere, so that it can be in no trial and gather no feedback; `spec.serving` does.
"""

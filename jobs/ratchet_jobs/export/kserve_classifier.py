"""`kserve` of a classifier: policy and base model in one folder, and an InferenceService of our own policy server.

Decides what that folder holds and what the server is told. No class of transformers pools by mean and has one linear
layer behind it, so KServe's own servers would load something else; a custom predictor lets KServe bring the folder and
our server load it, which compares every byte with the digests before it answers. Called by `ratchet export`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ratchet_api import __version__
from ratchet_api.base import LabelName, Sha256
from ratchet_api.stage import artifact_digest
from ratchet_jobs.data.base_model import check_listing
from ratchet_jobs.data.policy_folder import BASE_FOLDER, POLICY_FOLDER, digests_of, folder_digest
from ratchet_jobs.export.exporting import Provenance
from ratchet_jobs.export.kserve import MODEL_FOLDER, SERVICE_FILE, KServeFacts, Service
from ratchet_jobs.export.record import README_FILE, RECORD_FILE
from ratchet_jobs.export.writing import whole_folder
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import read_card
from ratchet_jobs.runtime.errors import BadConfigError

LOADER = "Ratchet's policy server, as a custom predictor of KServe"
IMAGE = f"ghcr.io/ratchet/serving:{__version__}"
"""Of the policy server, where the user names none."""
MOUNTED = "/mnt/models"
"""Where KServe leaves what STORAGE_URI names."""
PORT = 8080
CORES = 1


class ClassifierRecord(KServeFacts):
    """What stands in ratchet_export.json of a classifier."""

    loader: str = LOADER
    """What loads the folder."""
    labels: Annotated[tuple[LabelName, ...], Field(strict=False, min_length=2)]
    """Class names; with several tasks, `task/label`."""
    served_digest: Sha256
    """Of model/policy as it lies there. Another than policy_digest where rows of it were erased since."""
    image: str
    """Of the policy server."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the service is besides its name and place.

    Attributes:
        image: of the policy server.
        version: number of the version; None = it was not published.
    """

    image: str
    version: int | None


def check_place(given: str | None, *, version: str) -> None:
    """Refuse to name what was committed as the service's place: the base model does not lie there.

    Raises:
        BadConfigError: no other place is named.
    """
    if given is None:
        raise BadConfigError(
            f"{version} is a classifier, which is served together with its base model, and that lies elsewhere; upload "
            f"the {MODEL_FOLDER}/ that is written and name that place by --storage-uri, as in s3://BUCKET/PATH"
        )


def classifier_manifest(service: Service, served: Served, *, committed: str, digest: str) -> dict[str, Any]:
    """Return the InferenceService.

    Args:
        service: its name and place.
        served: what else it is told.
        committed: digest of the policy's committed files.
        digest: of the exported ones, which the server compares.
    """
    told = {
        "STORAGE_URI": service.storage_uri,  # KServe reads it, and brings what lies there before the server starts
        "RATCHET_SERVING_EXPORT": MOUNTED,
        "RATCHET_SERVING_ARTIFACT_DIGEST": digest,
        "RATCHET_SERVING_POLICY": service.name,
        **({} if served.version is None else {"RATCHET_SERVING_VERSION": str(served.version)}),
        "RATCHET_SERVING_HOST": "0.0.0.0",  # of its own pod, as every server of KServe's
        "RATCHET_SERVING_PORT": str(PORT),
        "OMP_NUM_THREADS": str(CORES),
    }
    resources = {"cpu": str(CORES), "memory": "2Gi"}
    container = {
        "name": "kserve-container",
        "image": served.image,
        "env": [{"name": name, "value": value} for name, value in told.items()],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 5},
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return service.manifest({"containers": [container]}, digest=committed)


def export_classifier(
    policy: Path, base: Path, *, target: Path, force: bool, service: Service, served: Served, text: str,
    provenance: Provenance,
) -> ClassifierRecord:  # fmt: skip
    """Write the folder: policy and base model as the server loads them, and the service.

    Args:
        policy: the committed files, checked by their digest.
        base: its base model, likewise.
        target: the folder that it becomes.
        force: whether an earlier export there is replaced.
        service: name and place of the service.
        served: what else it is told.
        text: the service as YAML.
        provenance: for the record.

    Raises:
        BadConfigError: the target must not be written.
    """
    card = read_card(policy)
    with whole_folder(target, force=force) as partial:
        model = partial / MODEL_FOLDER
        shutil.copytree(policy, model / POLICY_FOLDER, ignore=shutil.ignore_patterns("checkpoints"))
        (model / BASE_FOLDER).mkdir()
        for name in check_listing((path.name for path in base.iterdir() if path.is_file()), where=str(base)):
            shutil.copyfile(base / name, model / BASE_FOLDER / name)
        (partial / SERVICE_FILE).write_text(text, encoding="utf-8")
        (partial / README_FILE).write_text(_readme(card, service, served, provenance), encoding="utf-8")
        files = digests_of(partial)
        record = ClassifierRecord(
            version=provenance.title,
            policy_digest=provenance.digest,
            served_digest=folder_digest(model / POLICY_FOLDER),
            snapshot=provenance.snapshot,
            base_model=card.base_model,
            labels=card.labels,
            max_tokens=card.max_tokens,
            image=served.image,
            storage_uri=service.storage_uri,
            ratchet_version=__version__,
            digest=artifact_digest(files),
            files=files,
        )
        (partial / RECORD_FILE).write_text(record.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
    return record


def _readme(card: PolicyCard, service: Service, served: Served, provenance: Provenance) -> str:
    tasks = "" if card.tasks is None else " A prediction holds an answer per task, under `tasks`."
    return f"""\
# {provenance.title}, exported as `kserve`

`{MODEL_FOLDER}/` holds the policy and its base model. Upload all of it, so that `{service.storage_uri}` has the folders
`{POLICY_FOLDER}/` and `{BASE_FOLDER}/`, then:

```console
kubectl apply -f {SERVICE_FILE}
curl http://HOST/v1/models/{service.name}:predict -d '{{"instances": ["my card was charged twice"]}}'
curl http://HOST/v1/classify -d '{{"text": "my card was charged twice"}}'
```

HOST is the service's, as `kubectl get inferenceservice {service.name}` shows it. A prediction is label, calibrated
confidence and whether the policy abstains.{tasks}

- The image is `{served.image}`; `--image` of the export names another.
- The server starts only if both are the bytes that were exported, by SHA-256. After another
  export, upload and apply both.
- It has {CORES} core and 2 GiB. Change `resources` and `OMP_NUM_THREADS` together; with `nvidia.com/gpu` it
  computes on the GPU.
- A private bucket needs KServe's own credentials: `spec.predictor.serviceAccountName` with a Secret that KServe reads.
- What it answers is recorded nowhere, so that it can be in no trial and gather no feedback; `spec.serving` does.
"""

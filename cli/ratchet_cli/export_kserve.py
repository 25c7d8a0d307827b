"""`ratchet export --format kserve`: a version's folder for KServe, and the InferenceService that names it, printed.

Decides what the service is called and which options belong to which kind of policy. What the folder holds is decided by
`ratchet_jobs.export`. Called by `export_verb`.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet_api.attempts import Artifact
from ratchet_cli.convert_verb import to_yaml
from ratchet_cli.errors import UsageProblem
from ratchet_cli.screen import say
from ratchet_cli.trained import explained, policy_folder, unpack
from ratchet_cli.versions import Version

if TYPE_CHECKING:
    from ratchet_jobs.export.exporting import Provenance
    from ratchet_jobs.export.kserve import KServeRecord, Service
    from ratchet_jobs.export.kserve_classifier import ClassifierRecord


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says besides the version.

    Attributes:
        target: the folder to make.
        force: whether an earlier export there is replaced.
        storage_uri: where KServe reads the model; None = where it was committed.
        image: of a classifier's server; None = that of this release.
        base: folder of a classifier's base model; None = as the policy names it.
    """

    target: Path
    force: bool
    storage_uri: str | None
    image: str | None
    base: Path | None


def export_for_kserve(version: Version, asked: Asked, *, as_json: bool) -> None:
    """Write a version's folder and print the service that names it."""
    with explained(version.title), tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        from ratchet_jobs.data.policy_folder import folder_digest, is_generator
        from ratchet_jobs.export.exporting import Provenance
        from ratchet_jobs.export.kserve import Service, storage_uri
        from ratchet_jobs.export.writing import check_target

        check_target(asked.target, force=asked.force)
        committed = version.files.uri if isinstance(version.files, Artifact) else None
        uri = storage_uri(asked.storage_uri, committed, version=version.title)
        folder = policy_folder(version, Path(scratch))
        digest = version.files.digest if isinstance(version.files, Artifact) else folder_digest(folder)
        service = Service(_service_name(version), version.namespace, uri)
        provenance = Provenance(version.title, digest, version.snapshot)
        record: KServeRecord | ClassifierRecord
        if is_generator(folder):
            record, text = _generator(folder, asked, service, provenance)
        else:
            record, text = _classifier(version, folder, asked, service, provenance, scratch=Path(scratch))
    if as_json:
        sys.stdout.write(json.dumps(record.to_wire(), ensure_ascii=False, indent=2) + "\n")
        return
    sys.stdout.write(text)
    say(f"{record.version} -> {asked.target} (kserve, for {record.loader})", style="good")
    say(f"  sha256 {record.digest}")
    say(f"  {asked.target / 'README.md'} says how it is asked")


def _generator(folder: Path, asked: Asked, service: Service, provenance: Provenance) -> tuple[KServeRecord, str]:
    from ratchet_jobs.export.kserve import check_generator, export_generator, service_manifest

    for name, given in (("--base", asked.base), ("--image", asked.image)):
        if given is not None:
            raise UsageProblem(
                f"{name} {given}: {provenance.title} is a generator, which is exported whole and served by KServe's "
                f"own server; leave {name} out"
            )
    card = check_generator(folder, version=provenance.title)
    text = to_yaml(service_manifest(service, card, digest=provenance.digest))
    record = export_generator(
        folder, target=asked.target, force=asked.force, service=service, text=text, provenance=provenance
    )
    return record, text


def _classifier(
    version: Version, folder: Path, asked: Asked, service: Service, provenance: Provenance, *, scratch: Path
) -> tuple[ClassifierRecord, str]:
    from ratchet_jobs.data.policy_folder import folder_digest
    from ratchet_jobs.export.kserve_classifier import IMAGE, Served, check_place, classifier_manifest, export_classifier
    from ratchet_jobs.models.classifier import read_card

    check_place(asked.storage_uri, version=version.title)
    served = Served(asked.image or IMAGE, version.number)
    here = replace(version, files=folder)  # which is here already, and checked
    base = unpack(here, asked.base, scratch, base_of=lambda policy: read_card(policy).base_model).base
    manifest = classifier_manifest(service, served, committed=provenance.digest, digest=folder_digest(folder))
    text = to_yaml(manifest)
    record = export_classifier(
        folder, base, target=asked.target, force=asked.force, service=service, served=served, text=text,
        provenance=provenance,
    )  # fmt: skip
    return record, text


def _service_name(version: Version) -> str:
    """The policy's name, or the run's or folder's, as a host name has it."""
    name = re.sub(r"[^a-z0-9]+", "-", (version.policy or Path(version.title).name).lower())[:48].strip("-")
    return name if name[:1].isalpha() else f"policy-{name}".strip("-")

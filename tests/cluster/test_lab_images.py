"""Our images run as the chart runs them: not root, read-only root file system, everything importable.

The lab makes layers without an image builder; a builder that follows the Containerfile must get the same files.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.pods import pod
from tests.lab import images
from tests.lab.cluster import Lab
from tests.lab.progress import run
from tests.lab.settings import (
    GATEWAY_IMAGE,
    JOBS_IMAGE,
    OPERATOR_IMAGE,
    REPOSITORY,
    ROUTER_IMAGE,
    cache_root,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WRITES_ONLY_TO_TMP = """
import os, sys
assert os.getuid() == 65532, os.getuid()
open(os.path.join(os.environ["TMPDIR"], "probe"), "w").close()
for place in ("/probe", "/opt/ratchet/app/probe", "/opt/ratchet/deps/probe"):
    try:
        open(place, "w")
    except OSError:
        continue
    sys.exit(f"{place} is writable")
print("imported")
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("image", "program"),
    [
        pytest.param(OPERATOR_IMAGE, "import ratchet_operator, kopf, aiohttp", id="operator"),
        pytest.param(JOBS_IMAGE, "import ratchet_jobs, peft, transformers, torch; torch.ones(2).sum()", id="jobs"),
        pytest.param(GATEWAY_IMAGE, "import ratchet_gateway.__main__, ratchet_gateway.cluster", id="gateway"),
    ],
)
def test_an_image_imports_its_code_as_a_restricted_pod_and_can_write_to_tmp_only(
    lab: Lab, lab_images: None, namespace: str, image: str, program: str
) -> None:
    smoke = pod("smoke", image=image, command=["python3", "-c", program + WRITES_ONLY_TO_TMP])
    lab.apply({**smoke, "metadata": {**smoke["metadata"], "namespace": namespace}})

    def ended() -> bool:
        phase = lab.kubectl("-n", namespace, "get", "pod", "smoke", "-o", "jsonpath={.status.phase}")
        return phase in ("Succeeded", "Failed")

    lab.wait_for(ended, "the smoke pod to end", 240)
    assert lab.kubectl("-n", namespace, "logs", "smoke").strip().endswith("imported")


def test_an_unchanged_image_is_not_imported_again(
    lab: Lab, lab_images: None, capsys: pytest.CaptureFixture[str]
) -> None:
    images.ensure(lab)  # sources may have been edited since the session's fixture looked
    capsys.readouterr()
    images.ensure(lab)
    printed = capsys.readouterr().out
    assert [line.split("] ")[1] for line in printed.splitlines()] == [
        f"{OPERATOR_IMAGE}: unchanged",
        f"{JOBS_IMAGE}: unchanged",
        f"{GATEWAY_IMAGE}: unchanged",
        f"{ROUTER_IMAGE}: unchanged",
    ]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on the disk of the cache; buildah's storage does not work on every /tmp."""
    place = cache_root() / "trees" / f"parity-{os.getpid()}"
    place.mkdir(parents=True)
    yield place
    shutil.rmtree(place)


def listing(root: Path) -> dict[str, tuple[int, bytes]]:
    """Path -> (mode, content) of everything below root; a directory's content is empty, a link's its target."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path).encode()
        else:
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(root))] = (status.st_mode, content)
    return found


@pytest.mark.parametrize(
    "image", [each for each in images.OURS if "app" in each.stages()], ids=lambda image: image.directory
)
def test_a_builder_that_follows_the_containerfile_gets_the_lab_s_app_layer(image: images.Image, scratch: Path) -> None:
    context = scratch / "context"
    images.build_wheel(context / "dist")
    shutil.copytree(REPOSITORY / "images", context / "images", ignore=shutil.ignore_patterns("__pycache__"))
    ours = scratch / "ours"
    ours.mkdir()
    images.run_stage(image.stages()["app"], out=ours, dist=context / "dist")

    storage = ["--root", scratch / "storage", "--runroot", scratch / "run", "--storage-driver", "vfs"]
    buildah = ["buildah", *storage]
    base = scratch / "Base"
    base.write_text(f"FROM scratch\nADD {images.base_archive(cache_root()).name} /\n")
    isolated = ["--isolation", "chroot", "--quiet"]
    run([*buildah, "bud", *isolated, "-t", "localhost/base", "-f", base, images.base_archive(cache_root()).parent])
    recipe = context / "images" / image.directory / "Containerfile"
    arguments = ["--build-arg", "BASE=localhost/base", "--pull-never", "--target", "app", "-t", "localhost/app"]
    run([*buildah, "bud", *isolated, *arguments, "-f", recipe, context])
    container = run([*buildah, "from", "--pull-never", "localhost/app"]).strip()
    theirs = Path(run([*buildah, "mount", container]).strip())
    try:
        got = listing(theirs / "out")
        assert got == listing(ours)
        assert any(name.startswith("opt/ratchet/app/bin/ratchet-") for name in got)
    finally:
        run([*buildah, "rm", container])

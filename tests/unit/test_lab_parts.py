"""Parts of the lab that can be judged without a cluster: names, layers, and the reader of Containerfiles."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.lab import containerfile, images, layers
from tests.lab.settings import LabError, Paths


@pytest.mark.parametrize("name", ["", "-x", "a/b", "x" * 25], ids=["empty", "leading dash", "a path", "too long"])
def test_a_name_that_cannot_be_a_namespace_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(LabError, match="use 1 to 24 letters, digits or dashes"):
        Paths.of(name)


def test_state_below_tmp_is_refused_because_the_store_could_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_LAB_STATE", "/tmp/labs")
    with pytest.raises(LabError, match="RATCHET_LAB_STATE=/tmp/labs"):
        Paths.of("one")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"x" * 700)
    (root / "bin/tool").chmod(0o755)
    (root / "bin/alias").symlink_to("tool")
    (root / ("deep" * 40)).mkdir()
    os.utime(root / "bin/tool", (1_000_000, 1_000_000))
    return root


def sent(layer: layers.Layer) -> bytes:
    sink = io.BytesIO()
    assert layer.send is not None
    layer.send(sink)
    return sink.getvalue()


def test_a_layer_is_a_readable_tar_owned_by_root_with_the_digest_that_was_measured(tree: Path) -> None:
    layer = layers.measured(layers.tree(tree))
    data = sent(layer)
    assert (layer.size, layer.digest) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = {entry.name: entry for entry in archive}
        assert sorted(entries) == sorted(["bin", "bin/alias", "bin/tool", "deep" * 40])
        assert entries["bin/alias"].linkname == "tool"
        assert (entries["bin/tool"].mode, entries["bin/tool"].mtime) == (0o755, 1_000_000)
        assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
        content = archive.extractfile("bin/tool")
        assert content is not None
        assert content.read() == b"x" * 700


def test_an_archive_names_every_layer_but_sends_only_those_the_receiver_lacks(tree: Path) -> None:
    known = layers.Layer("sha256:" + "0" * 64, 123)
    new = layers.measured(layers.tree(tree))
    sink = io.BytesIO()
    layers.write_oci_archive(sink, "localhost/x:1", [known, new], {"User": "65532"}, {known.digest})
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    [reference] = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files[f"blobs/sha256/{reference['digest'][7:]}"])
    config = json.loads(files[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    assert reference["annotations"]["io.containerd.image.name"] == "localhost/x:1"
    assert [layer["digest"] for layer in manifest["layers"]] == [known.digest, new.digest]
    assert config["rootfs"]["diff_ids"] == [known.digest, new.digest]
    assert config["config"] == {"User": "65532"}
    assert files[f"blobs/sha256/{new.digest[7:]}"] == sent(new)
    assert f"blobs/sha256/{known.digest[7:]}" not in files


@pytest.mark.parametrize("image", [*images.OURS, images.SERVING], ids=lambda image: image.directory)
def test_our_containerfiles_are_readable_and_end_as_a_numeric_user_that_is_not_root(image: images.Image) -> None:
    stages = image.stages()
    layers = ["deps"] if image is images.ROUTER else ["deps", "app"]  # no code of ours runs in the router
    assert list(stages) == [*layers, ""]
    assert stages[""].config["User"] == "65532:65532"
    assert stages[""].copies == [f"--from={layer} /out/ /" for layer in layers]
    assert stages["deps"].runs[0][2:5] == ["deps", "--extra", image.directory]


@pytest.mark.parametrize(
    ("text", "want_error"),
    [
        pytest.param("FROM a\nRUN apt-get update", "can only reproduce RUN", id="a RUN that the host cannot repeat"),
        pytest.param("FROM a\nVOLUME /data", "instruction VOLUME is unknown", id="an unknown instruction"),
        pytest.param("USER 1\nFROM a", "USER before the first FROM", id="an instruction without a stage"),
    ],
)
def test_a_containerfile_that_the_lab_would_build_differently_is_refused(text: str, want_error: str) -> None:
    with pytest.raises(LabError, match=want_error):
        containerfile.parse(text, {})


def test_build_arguments_win_over_defaults_and_fill_in_where_they_are_named() -> None:
    text = "ARG A=one\nFROM x AS s\nARG B=\nENV P=${A} \\\n    Q=${B}\n"
    [stage] = containerfile.parse(text, {"B": "two"})
    assert (stage.name, stage.config) == ("s", {"Env": ["P=one", "Q=two"]})

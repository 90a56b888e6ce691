"""A stripped install tree with its libraries renders where there is nothing else: no Python."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from PIL import Image

from conftest import ROOT
from cpp_builds import run
from ldm_engine import LDMTextToImagePipeline, __version__

PREFIX = "opt/ldm-engine"
COMMAND = f"{PREFIX}/bin/ldm-generate"
PIXEL_TOLERANCE = 1
#: What the system's C library consists of; all else lies in the tree.
C_LIBRARY = re.compile(r"(/\S*/(?:ld-linux\S*|lib(?:c|m|dl|rt|pthread)\.so\S*))")


@pytest.fixture(scope="module")
def empty_root(cpp_build, shapes_bundle, tmp_path_factory) -> Path:
    """A folder with the install tree, the C library, and the bundle's OpenVINO files."""
    root = tmp_path_factory.mktemp("root")
    for component in ("runtime", "standalone"):
        run("cmake", "--install", cpp_build.tree, "--prefix", root / PREFIX, "--strip",
            "--component", component)  # fmt: skip
    for file in (root / PREFIX / "lib").rglob("*.so*"):
        for library in C_LIBRARY.findall(run("ldd", file).stdout):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    shutil.copytree(
        shapes_bundle.path, root / "bundle", ignore=shutil.ignore_patterns("*.onnx*", "inference*")
    )
    for name in ("tmp", "proc", "sys"):
        (root / name).mkdir()
    return root


def _in_root(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees `root`, the kernel's /proc and /sys, and nothing else."""
    script = 'mount -t proc proc "$0/proc" && mount --rbind /sys "$0/sys" && exec chroot "$0" "$@"'
    namespace = ["unshare", "--map-root-user", "--mount", "--pid", "--kill-child"]
    return subprocess.run(
        [*namespace, "sh", "-c", script, str(root), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"HOME": "/tmp", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def test_it_renders_in_an_empty_root(empty_root, shapes_bundle):
    names = [p.name for p in empty_root.rglob("*")]
    assert not [name for name in names if "python" in name.lower()]
    prompt = "a large blue star on the right"
    done = _in_root(
        empty_root, f"/{COMMAND}", "/bundle", prompt, "--output", "/pictures",
        "--seed", "2", "--num-inference-steps", "10", "--threads", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = (empty_root / "pictures").iterdir()
    pipe = LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino", threads=2)
    (expected,) = pipe(prompt, num_inference_steps=10, guidance_scale=6.0, seed=2).images
    difference = np.asarray(Image.open(path)).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= PIXEL_TOLERANCE


def test_nothing_is_looked_for_outside_of_the_tree(empty_root):
    (library,) = (empty_root / PREFIX / "lib").glob("libldm_engine.so.*.*.*")
    for file, path in ((library, "$ORIGIN"), (empty_root / COMMAND, "$ORIGIN/../lib")):
        paths = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", run("readelf", "-d", file).stdout)
        assert paths == [path]
    assert list(library.parent.glob("libtbbmalloc.so*"))  # which TBB loads by its name
    assert not (empty_root / PREFIX / "include").exists()


def test_the_licences_of_all_libraries_are_there(empty_root):
    documents = empty_root / PREFIX / "share/doc/ldm_engine"
    assert (documents / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    licences = documents / "licences"
    names = {p.name for p in licences.iterdir()}
    assert "openvino" in names
    assert any("tbb" in p.name for p in licences.rglob("*"))
    for name in ("libpng", "zlib", "libutf8proc", "libssl", "libstdc++", "libgcc", "nlohmann-json"):
        assert [h for h in names if h.startswith(name)], (name, names)


def test_the_list_of_what_the_tree_holds(empty_root):
    """It is valid CycloneDX and names each file; packages have versions and licences."""
    text = (empty_root / PREFIX / "share/doc/ldm_engine/bom.cdx.json").read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    bill = json.loads(text)
    assert bill["metadata"]["component"]["version"] == __version__
    packages = {package["name"]: package for package in bill["components"]}
    assert packages["openvino"]["version"] == version("openvino")
    assert {"onetbb", "nlohmann-json3-dev"} <= set(packages)
    for package in packages.values():
        assert package["version"], package
        assert package["licenses"], package
    listed = {
        file["name"]: file["hashes"][0]["content"]
        for package in packages.values()
        for file in package.get("components", ())
    }
    libraries = [p for p in (empty_root / PREFIX / "lib").glob("*.so*") if not p.is_symlink()]
    others = [p for p in libraries if not p.name.startswith("libldm_engine")]
    assert listed == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in others}


def test_the_tree_holds_no_more_than_it_needs(empty_root):
    files = [p for p in (empty_root / PREFIX).rglob("*") if p.is_file() and not p.is_symlink()]
    size = sum(p.stat().st_size for p in files)
    code = [p for p in files if "share" not in p.relative_to(empty_root).parts]
    print(f"{size / 1e6:.1f} MB; library, command and libraries are {len(code)} files")
    assert size < 120e6, [(p.name, p.stat().st_size) for p in files]

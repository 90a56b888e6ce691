from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ldm_engine.errors import CheckpointError, DownloadError, InvalidArgumentError
from ldm_export import hub, paddlenlp_store
from ldm_export.checkpoint import open_checkpoint
from ldm_export.hub_files import needed_files

ID = "CompVis/ldm-text2im-large-256"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "README.md": b"# card",
    "model_index.json": b"{}",
    "bert/config.json": b"{}",
    "bert/model_config.json": b"{}",
    "unet/config.json": b"{}",
    "vqvae/config.json": b"{}",
    "scheduler/scheduler_config.json": b"{}",
    "tokenizer/vocab.txt": b"[PAD]\n",
    "tokenizer/tokenizer_config.json": b"{}",
    "bert/model_state.pdparams": b"bert" * 1000,
    "unet/model_state.pdparams": WEIGHTS,
    "vqvae/model_state.pdparams": b"vqvae" * 1000,
}
UNET = "unet/model_state.pdparams"


class Store(ThreadingHTTPServer):
    """A file store on loopback whose ways can be made bad."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.requests: list[tuple[str, str | None]] = []  # (file, Range)
        self.honours_range = True
        self.breaks: dict[str, list[int]] = {}  # file -> bytes sent before each broken answer
        self.statuses: dict[str, list[int]] = {}  # file -> statuses to answer with first
        self.announced: dict[str, int] = {}  # file -> wrong Content-Length
        self.tells_version: str | None = None  # the header that does: "ETag" or "Last-Modified"
        self.honours_if_range = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/community/"

    def asked(self, file: str) -> list[str | None]:
        return [range_ for name, range_ in self.requests if name == file]


class Handler(BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        name = self.path.removeprefix(f"/community/{ID}/")
        range_ = self.headers.get("Range")
        self.server.requests.append((name, range_))
        if statuses := self.server.statuses.get(name):
            self.send_error(statuses.pop(0))
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        version = f'"{hashlib.sha256(content).hexdigest()}"'
        changed = self.headers.get("If-Range", version) != version and self.server.honours_if_range
        start = 0
        if range_ and self.server.honours_range and not changed:
            start = int(re.fullmatch(r"bytes=(\d+)-", range_)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(self.server.announced.get(name, len(body))))
        if self.server.tells_version:
            self.send_header(self.server.tells_version, version)
        self.end_headers()
        if breaks := self.server.breaks.get(name):
            body = body[: breaks.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(paddlenlp_store, "BACKOFF_S", 0.001)
    server = Store()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(store: Store, cache_dir: Path) -> Path:
    return hub.fetch(ID, hub="paddlenlp", hub_url=store.url, cache_dir=cache_dir)


def content(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".complete"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_fresh_download_and_nothing_the_second_time(store: Store, tmp_path: Path) -> None:
    folder = fetch(store, tmp_path)
    assert content(folder) == FILES
    asked = len(store.requests)
    assert fetch(store, tmp_path) == folder
    assert len(store.requests) == asked
    (folder / UNET).unlink()
    assert content(fetch(store, tmp_path)) == FILES
    assert store.asked(UNET) == [None, None]
    assert store.asked("bert/model_state.pdparams") == [None]


def test_environment_sets_the_store_and_the_cache(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_ENGINE_PADDLENLP_URL", store.url)
    monkeypatch.setenv("LDM_ENGINE_CACHE", str(tmp_path / "cache"))
    folder = hub.fetch(ID, hub="paddlenlp")
    assert folder == tmp_path / "cache/ldm-engine/paddlenlp" / ID
    assert content(folder) == FILES


def test_broken_connection_goes_on_where_it_broke(store: Store, tmp_path: Path) -> None:
    store.breaks[UNET] = [1000, 500_000]
    assert content(fetch(store, tmp_path)) == FILES
    assert store.asked(UNET) == [None, "bytes=1000-", "bytes=501000-"]


def test_a_later_call_goes_on_too(store: Store, tmp_path: Path) -> None:
    store.breaks[UNET] = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="1,000 bytes are kept") as caught:
        fetch(store, tmp_path)
    assert UNET in str(caught.value)
    folder = tmp_path / "paddlenlp" / ID
    assert not (folder / UNET).exists()
    assert (folder / f"{UNET}.part").stat().st_size == 1000
    store.breaks.clear()
    store.requests.clear()
    assert content(fetch(store, tmp_path)) == FILES
    assert store.asked(UNET) == ["bytes=1000-"]
    assert store.asked("bert/model_state.pdparams") == []


def test_server_without_ranges_starts_afresh(store: Store, tmp_path: Path) -> None:
    store.honours_range = False
    store.breaks[UNET] = [1000]
    assert content(fetch(store, tmp_path)) == FILES
    assert store.asked(UNET) == [None, "bytes=1000-"]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("honours_if_range", [True, False])
@pytest.mark.parametrize("changed", [True, False])
def test_a_file_that_changed_on_the_server_starts_afresh(
    store: Store, tmp_path: Path, header: str, honours_if_range: bool, changed: bool
) -> None:
    store.tells_version, store.honours_if_range = header, honours_if_range
    store.breaks[UNET] = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="1,000 bytes are kept"):
        fetch(store, tmp_path)
    store.breaks.clear()
    store.requests.clear()
    if changed:
        store.files[UNET] = WEIGHTS[::-1]
    assert content(fetch(store, tmp_path)) == store.files
    again = [None] if changed and not honours_if_range else []
    assert store.asked(UNET) == ["bytes=1000-", *again]


@pytest.mark.parametrize("left", [WEIGHTS, WEIGHTS + b"more"], ids=["complete", "too long"])
def test_part_that_needs_no_more(store: Store, tmp_path: Path, left: bytes) -> None:
    part = tmp_path / "paddlenlp" / ID / f"{UNET}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert content(fetch(store, tmp_path)) == FILES


def test_transient_errors_are_tried_again(store: Store, tmp_path: Path) -> None:
    store.statuses[UNET] = [503, 500, 429]
    assert content(fetch(store, tmp_path)) == FILES


def test_retries_are_reported_once(store: Store, tmp_path: Path) -> None:
    store.statuses[UNET] = [503, 500, 429]
    store.breaks["bert/model_state.pdparams"] = [100, 100]
    notes: list[str] = []
    hub.fetch(ID, hub="paddlenlp", hub_url=store.url, cache_dir=tmp_path, report=notes.append)
    (note,) = notes
    assert "asked again" in note
    assert "bert/model_state.pdparams" in note


def test_other_weights_of_the_store(store: Store, tmp_path: Path) -> None:
    """What newer releases of ppdiffusers save, and variants; no more than one of them."""
    safe, half = "unet/diffusion_paddle_model.safetensors", "vqvae/model_state.fp16.pdparams"
    store.files[safe] = store.files.pop(UNET)
    store.files[half] = b"half"
    folder = fetch(store, tmp_path)
    assert set(content(folder)) == set(store.files) - {half}
    hub.fetch(ID, hub="paddlenlp", hub_url=store.url, cache_dir=tmp_path, variant="fp16")
    assert content(folder) == store.files
    assert store.asked(safe) == [None]


def test_lasting_error(store: Store, tmp_path: Path) -> None:
    store.statuses[UNET] = [503] * 99
    with pytest.raises(DownloadError, match=r"HTTP 503 .* \(5 attempts\)"):
        fetch(store, tmp_path)
    store.statuses[UNET] = [403]
    with pytest.raises(DownloadError, match="HTTP 403 Forbidden"):
        fetch(store, tmp_path)


def test_unknown_id_fails_before_anything_large(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"no model_index\.json under .*HTTP 404") as caught:
        hub.fetch("nobody/nothing", hub="paddlenlp", hub_url=store.url, cache_dir=tmp_path)
    assert "Check the id" in str(caught.value)
    assert len(store.requests) == 1


def test_optional_files_may_be_missing(store: Store, tmp_path: Path) -> None:
    del store.files["README.md"], store.files["bert/config.json"]
    folder = fetch(store, tmp_path)
    assert content(folder) == store.files


def test_wrong_size_is_no_success(store: Store, tmp_path: Path) -> None:
    store.announced[UNET] = len(WEIGHTS) + 10
    store.honours_range = False
    with pytest.raises(DownloadError, match=f"ended after {len(WEIGHTS)} of {len(WEIGHTS) + 10}"):
        fetch(store, tmp_path)
    assert not (tmp_path / "paddlenlp" / ID / UNET).exists()


def test_no_network(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DownloadError, match=r"no connection .* \(5 attempts\)"):
        hub.fetch(ID, hub="paddlenlp", hub_url="http://127.0.0.1:9/", cache_dir=tmp_path)


def test_disk_full(store: Store, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    part = tmp_path / "paddlenlp" / ID / f"{UNET}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to(full)
    with pytest.raises(DownloadError, match="No space left on device") as caught:
        fetch(store, tmp_path)
    assert "Free some space" in str(caught.value)
    assert (tmp_path / "paddlenlp" / ID / "bert/model_state.pdparams").exists()


def test_a_mark_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    folder = fetch(store, tmp_path)
    (folder / ".complete").unlink()
    (folder / ".complete").symlink_to(tmp_path / "missing" / "mark")
    with pytest.raises(DownloadError, match=r"\.complete` could not be written"):
        fetch(store, tmp_path)


def test_local_paths_are_returned_as_they_are(tmp_path: Path) -> None:
    assert hub.fetch(tmp_path) == tmp_path
    (file := tmp_path / "model.ckpt").touch()
    assert hub.fetch(str(file), hub="paddlenlp") == file
    for option in ("revision", "hub_url"):
        with pytest.raises(InvalidArgumentError, match=f"`{option}` is 'x'; .* is a local path"):
            hub.fetch(file, **{option: "x"})


@pytest.mark.parametrize(
    "source",
    [
        "../secret",
        "a/../b",
        "/etc/nothing",
        "a",
        "a/b/c",
        "http://x/y",
        "a/b?c=d",
        "a/.b",
        "a/b ",
        "",
        "x" * 5000,
    ],
)
@pytest.mark.parametrize("where", ["huggingface", "paddlenlp"])
def test_what_is_no_id(source: str, where: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="neither an existing file or folder nor an id"):
        hub.fetch(source, hub=where, cache_dir=tmp_path)


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="huggingface and paddlenlp are accepted"):
        hub.fetch(ID, hub="other", cache_dir=tmp_path)  # type: ignore[arg-type]
    for url in (
        "file:///etc",
        "http://[bad",
        "http://host:port",
        "http:///models",
        "http://host/a b",
        "http://host/\u00e9",
    ):
        with pytest.raises(InvalidArgumentError, match="http and https"):
            hub.fetch(ID, hub="paddlenlp", hub_url=url, cache_dir=tmp_path)
    with pytest.raises(InvalidArgumentError, match="`hub_url`"):
        hub.fetch(ID, hub_url="http://127.0.0.1:9/", cache_dir=tmp_path)
    for variant in ("../fp16", "", "a/b", "fp16?x"):
        with pytest.raises(InvalidArgumentError, match="`variant`"):
            hub.fetch(ID, hub="paddlenlp", variant=variant, cache_dir=tmp_path)
    with pytest.raises(InvalidArgumentError, match="`revision`"):
        hub.fetch(ID, hub="paddlenlp", revision="main", cache_dir=tmp_path)


def test_only_needed_files_of_a_repository() -> None:
    listed = [
        ".gitattributes",
        "README.md",
        "images/squirrel-0.png",
        "model_index.json",
        "bert/config.json",
        "bert/pytorch_model.bin",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/flax_model.msgpack",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vqvae/diffusion_pytorch_model-00002-of-00002.safetensors",
        "vqvae/diffusion_pytorch_model.safetensors.index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.txt",
        "tokenizer/tokenizer_config.json",
    ]
    notes: list[str] = []
    needed = set(needed_files(ID, listed, report=notes.append))
    others = {"unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"}
    unread = {".gitattributes", "images/squirrel-0.png", "unet/flax_model.msgpack"}
    assert set(listed) - needed == others | unread
    (note,) = notes
    assert all(name in note for name in others)
    half = set(needed_files(ID, listed, "fp16"))
    plain = {"unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors"}
    assert set(listed) - half == plain | unread
    with pytest.raises(CheckpointError, match="are of the variant bf16; it has fp16"):
        needed_files(ID, listed, "bf16")


UNET_SHARDS = [f"unet/diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
OLD_SHARDS = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
INDEX = "unet/diffusion_pytorch_model.safetensors.index"


@pytest.mark.parametrize(
    "unet",
    [
        ["unet/diffusion_pytorch_model.fp16.safetensors"],
        [*UNET_SHARDS, f"{INDEX}.fp16.json"],
        [*OLD_SHARDS, "unet/diffusion_pytorch_model.safetensors.fp16.index.json"],
        ["unet/diffusion_pytorch_model.non_ema.bin"],
        ["unet/diffusion_paddle_model.safetensors"],
        ["unet/model_state.fp16.pdparams"],
    ],
)
def test_the_one_variant_of_a_repository(unet: list[str]) -> None:
    listed = ["unet/config.json", *unet, "bert/model.safetensors", "safety_checker/model.fp16.bin"]
    assert set(needed_files(ID, listed)) == {*listed[:-1]}
    plain = ["unet/diffusion_pytorch_model.bin"]
    if "diffusion_paddle_model" not in unet[0]:
        assert set(unet).isdisjoint(needed_files(ID, [*listed, *plain]))


def test_averages_of_a_repository() -> None:
    listed = [f"{f}/diffusion_pytorch_model.bin" for f in ("unet", "unet_ema", "vqvae")]
    assert needed_files(ID, listed) == [listed[0], listed[2]]
    assert sorted(needed_files(ID, listed, ema=True)) == listed[1:]


def test_a_repository_with_one_checkpoint_file() -> None:
    beside = ["vocab.txt", "tokenizer/tokenizer.json", "added_tokens.json"]
    listed = ["README.md", "model.ckpt", "model.yaml", *beside, "assets/grid.png"]
    assert set(needed_files(ID, listed)) == {*listed[:-1]}
    with pytest.raises(DownloadError, match=r"several checkpoint files: `model.ckpt`, `ema.pt`"):
        needed_files(ID, [*listed, "ema.pt"])
    with pytest.raises(DownloadError, match=r"no checkpoint file; its files are README\.md"):
        needed_files(ID, ["README.md"])


def test_missing_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'ldm-engine\[export\]'"):
        hub.fetch(ID)


def test_an_earlier_snapshot_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    client = pytest.importorskip("huggingface_hub")

    class Offline:
        def list_repo_files(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("the cable is out")

    monkeypatch.setattr(client, "HfApi", Offline)
    with pytest.raises(DownloadError, match="ConnectionError: the cable is out") as refused:
        hub.fetch(ID, cache_dir=tmp_path)
    assert "earlier" not in str(refused.value)
    snapshot = tmp_path / "models--CompVis--ldm-text2im-large-256/snapshots/0123"
    shutil.copytree(tiny_checkpoint, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    for revision in (None, "main", "0123"):
        with pytest.warns(UserWarning, match="the cable is out.*downloaded earlier") as caught:
            assert hub.fetch(ID, cache_dir=tmp_path, revision=revision) == snapshot
        assert caught[0].filename == __file__
    with pytest.raises(DownloadError, match="the cable is out"):
        hub.fetch(ID, cache_dir=tmp_path, revision="another")
    with pytest.raises(DownloadError, match=r"cannot be used: No weights .* of the variant fp16"):
        hub.fetch(ID, cache_dir=tmp_path, variant="fp16")
    shutil.rmtree(snapshot / "unet")
    with pytest.raises(DownloadError, match=r"cannot be used: .* no folder for the component unet"):
        hub.fetch(ID, cache_dir=tmp_path)


class HuggingFace(ThreadingHTTPServer):
    """A hub on loopback: repositories, and what some of them answer at first."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), HuggingFaceHandler)
        self.repositories = repositories
        self.statuses: dict[str, list[tuple[int, dict[str, str]]]] = {}

    def run(self, code: str, cache: Path, **environment: str) -> str:
        """What `code` prints in a process of its own: the client reads its settings once."""
        kept = {n: v for n, v in os.environ.items() if "proxy" not in n.lower() and n != "HF_TOKEN"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **kept,
                "HF_ENDPOINT": f"http://127.0.0.1:{self.server_address[1]}",
                "HF_HOME": str(cache),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "Retrying" not in done.stderr
        assert "HTTP Request" not in done.stderr
        return done.stdout


class HuggingFaceHandler(BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client needs to list and download a small repository."""

    server: HuggingFace
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/models")
        name = "/".join(path.split("/")[1:3])
        files = self.server.repositories.get(name, {})
        if self.server.statuses.get(name):
            self.refuse(*self.server.statuses[name].pop(0))
        elif "/tree/" in path and files:
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
                for name, body in files.items()
            ]
            self.send(json.dumps(entries).encode(), "application/json")
        elif "/resolve/" in path and (file := path.split("/", 5)[5]) in files:
            self.send(files[file], "application/octet-stream")
        elif "/resolve/" not in path and files:
            siblings = [{"rfilename": name} for name in files]
            info = {"id": name, "modelId": name, "sha": self.commit, "siblings": siblings}
            self.send(json.dumps(info).encode(), "application/json")
        else:
            self.refuse(404, {"X-Error-Code": "RepoNotFound"})

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hugging_face(repositories: dict[str, dict[str, bytes]]) -> Iterator[HuggingFace]:
    pytest.importorskip("huggingface_hub")
    server = HuggingFace(repositories)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_huggingface_snapshot(tmp_path: Path) -> None:
    """Through the real client."""
    files = {
        "README.md": b"# card",
        "images/squirrel.png": b"png",
        "model_index.json": b"{}",
        "bert/config.json": b"{}",
        "bert/pytorch_model.bin": b"bert",
        "unet/diffusion_pytorch_model.bin": b"unsafe",
        "unet/diffusion_pytorch_model.safetensors": b"unet",
        "vqvae/diffusion_pytorch_model.fp16-00001-of-00001.safetensors": b"vqvae",
        "vqvae/diffusion_pytorch_model.safetensors.index.fp16.json": b"{}",
        "tokenizer/vocab.txt": b"[PAD]\n",
    }
    code = f"from ldm_export.hub import fetch; print(fetch({ID!r}))"
    with hugging_face({ID: files}) as server:
        folder = Path(server.run(code, tmp_path / "hf").strip().splitlines()[-1])
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    unneeded = {"images/squirrel.png", "unet/diffusion_pytorch_model.bin"}
    assert found == {name: body for name, body in files.items() if name not in unneeded}


REFUSED = """
import json, warnings
from ldm_engine.errors import DownloadError
from ldm_export.hub import fetch

warnings.simplefilter("error")
said = {}
for name in ["private/model", "gated/model", "gone/model", "busy/model"]:
    notes = []
    try:
        fetch(name, report=notes.append)
    except DownloadError as error:
        notes.append(str(error))
    said[name] = notes
print(json.dumps(said))
"""


def test_what_the_hub_refuses(tmp_path: Path) -> None:
    """Its reason is kept, a token is named, and the client's retries are reported once."""
    files = {"unet/diffusion_pytorch_model.bin": b"unet"}
    with hugging_face({"gated/model": files, "busy/model": files}) as server:
        reason = "Access to model gated/model is restricted; ask its authors"
        server.statuses = {
            "private/model": [(401, {"X-Error-Code": "RepoNotFound"})],
            "gated/model": [(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": reason})],
            "busy/model": [(503, {}), (503, {})],
        }
        said = json.loads(server.run(REFUSED, tmp_path / "hf").splitlines()[-1])
    (private,), (gated,), (gone,) = (said[f"{name}/model"] for name in ("private", "gated", "gone"))
    assert "RepositoryNotFoundError: 401 Client Error. Repository Not Found for url" in private
    assert "Request ID" not in private
    assert reason in gated
    assert "403 Client Error" in gated
    assert "404 Client Error" in gone
    assert "Check the id and the revision" in gone
    assert all("set HF_TOKEN" in text for text in (private, gated, gone))
    (retried,) = said["busy/model"]
    assert "asked again" in retried
    assert "503" in retried


OFFLINE = f"""
import warnings
from ldm_export.checkpoint import open_checkpoint
from ldm_export.hub import fetch

warnings.simplefilter("error")
print(open_checkpoint(fetch({ID!r})).path)
"""


def test_offline_with_a_full_cache(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """No warning: nobody who sets HF_HUB_OFFLINE expects a newer copy."""
    files = {
        str(file.relative_to(tiny_checkpoint)): file.read_bytes()
        for file in tiny_checkpoint.rglob("*")
        if file.is_file()
    }
    files["images/squirrel.png"] = b"never fetched"
    with hugging_face({ID: files}) as server:
        online = server.run(OFFLINE, tmp_path / "hf")
        assert server.run(OFFLINE, tmp_path / "hf", HF_HUB_OFFLINE="1") == online
        code = OFFLINE.replace("print(", "try:\n    print(") + (
            "except Exception as error:\n    print(type(error).__name__, error)\n"
        )
        refused = server.run(code, tmp_path / "empty", HF_HUB_OFFLINE="1")
    assert "DownloadError" in refused
    assert "Unset HF_HUB_OFFLINE" in refused
    repository = Path(online.strip().splitlines()[-1]).parent.parent
    opened = open_checkpoint(repository)  # the folder in the cache that users find
    assert opened.path.parent.parent == repository
    assert "its snapshot" in opened.notes[0]
    assert hub.cached_id(repository) == hub.cached_id(opened.path) == ID
    (repository / "refs/main").unlink()
    assert open_checkpoint(repository).path == opened.path
    (opened.path.parent / "another").mkdir()
    with pytest.raises(CheckpointError, match="Pass the folder of one of them"):
        open_checkpoint(repository)

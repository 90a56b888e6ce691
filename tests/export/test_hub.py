from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ldm_engine.errors import DownloadError, InvalidArgumentError
from ldm_export import hub, paddlenlp_store

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
    return hub.fetch(ID, hub="paddlenlp", base_url=store.url, cache_dir=cache_dir)


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".complete")
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


def test_lasting_error(store: Store, tmp_path: Path) -> None:
    store.statuses[UNET] = [503] * 99
    with pytest.raises(DownloadError, match=r"HTTP 503 .* \(5 attempts\)"):
        fetch(store, tmp_path)
    store.statuses[UNET] = [403]
    with pytest.raises(DownloadError, match="HTTP 403 Forbidden"):
        fetch(store, tmp_path)


def test_unknown_id_fails_before_anything_large(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"no model_index\.json under .*HTTP 404") as caught:
        hub.fetch("nobody/nothing", hub="paddlenlp", base_url=store.url, cache_dir=tmp_path)
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
        hub.fetch(ID, hub="paddlenlp", base_url="http://127.0.0.1:9/", cache_dir=tmp_path)


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
    for option in ("revision", "base_url"):
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
            hub.fetch(ID, hub="paddlenlp", base_url=url, cache_dir=tmp_path)
    with pytest.raises(InvalidArgumentError, match="`base_url`"):
        hub.fetch(ID, base_url="http://127.0.0.1:9/", cache_dir=tmp_path)
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
    needed = set(hub.needed_files(listed))
    assert set(listed) - needed == {
        ".gitattributes",
        "images/squirrel-0.png",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/flax_model.msgpack",
    }


def test_missing_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'ldm-engine\[export\]'"):
        hub.fetch(ID)


def test_an_earlier_snapshot_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = pytest.importorskip("huggingface_hub")

    class Offline:
        def list_repo_files(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("the cable is out")

    monkeypatch.setattr(client, "HfApi", Offline)
    monkeypatch.setattr(client, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(DownloadError, match="ConnectionError: the cable is out"):
        hub.fetch(ID)  # what is there is no checkpoint
    monkeypatch.setattr(hub, "open_checkpoint", lambda _: None)
    with pytest.warns(UserWarning, match="the cable is out.*downloaded earlier") as caught:
        assert hub.fetch(ID) == tmp_path
    assert caught[0].filename == __file__


class HuggingFaceHandler(BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client needs to list and download a small repository."""

    files: dict[str, bytes]
    asked: list[str]
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        type(self).asked.append(path)
        if path.startswith(f"/api/models/{ID}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
                for name, body in self.files.items()
            ]
            self.send(json.dumps(entries).encode(), "application/json")
        elif path.startswith(f"/api/models/{ID}"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": ID, "modelId": ID, "sha": self.commit, "siblings": siblings}
            self.send(json.dumps(info).encode(), "application/json")
        elif f"/{ID}/resolve/" in path and (name := path.split("/", 5)[5]) in self.files:
            self.send(self.files[name], "application/octet-stream")
        else:
            self.send_error(404)

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


def test_huggingface_snapshot(tmp_path: Path) -> None:
    """Through the real client, in a process of its own: it reads its endpoint when imported."""
    pytest.importorskip("huggingface_hub")
    HuggingFaceHandler.asked = []
    HuggingFaceHandler.files = {
        "README.md": b"# card",
        "images/squirrel.png": b"png",
        "model_index.json": b"{}",
        "bert/config.json": b"{}",
        "bert/pytorch_model.bin": b"bert",
        "unet/diffusion_pytorch_model.bin": b"unsafe",
        "unet/diffusion_pytorch_model.safetensors": b"unet",
        "tokenizer/vocab.txt": b"[PAD]\n",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), HuggingFaceHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    code = "import sys; from ldm_export.hub import fetch; print(fetch(sys.argv[1]))"
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, ID],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    unneeded = {"images/squirrel.png", "unet/diffusion_pytorch_model.bin"}
    assert found == {
        name: body for name, body in HuggingFaceHandler.files.items() if name not in unneeded
    }

"""Serves the page and a bundle on this machine, isolated, so that it may use all cores.

``python -m http.server`` serves the page too; what it lacks are the two headers without which
browsers share no memory between threads.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).parent
BUNDLE = "/bundle/"


class Handler(SimpleHTTPRequestHandler):
    """The files of the page, and under /bundle/ those of the bundle."""

    def __init__(self, *args: object, bundle: str, **kwargs: object) -> None:
        self.bundle = bundle
        super().__init__(*args, directory=str(PAGE), **kwargs)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """Where a file lies."""
        page = self.directory
        if path.startswith(BUNDLE):
            self.directory, path = self.bundle, path.removeprefix(BUNDLE.rstrip("/"))
        try:
            return super().translate_path(path)
        finally:
            self.directory = page

    def end_headers(self) -> None:
        """Add what makes the page isolated."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", help="Folder of a bundle with the format onnx.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free.")
    options = parser.parse_args()
    if not (Path(options.bundle) / "bundle.json").is_file():
        parser.error(
            f"{options.bundle} is no bundle: it has no bundle.json. Export one with `ldm-engine "
            "export CHECKPOINT BUNDLE --formats onnx --weights fp16`."
        )
    handler = partial(Handler, bundle=options.bundle)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    except OSError as error:
        parser.error(f"Port {options.port} cannot be used: {error.strerror}. Give another --port.")
    print(f"http://localhost:{server.server_port}/", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()

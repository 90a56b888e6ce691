"""Text files as they come: compression and encoding by the first bytes, and lines as UTF-8.

What is read is decompressed and decoded as a stream. What cannot be is refused by its name; nothing
is guessed from how the rest of a file looks.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from ..errors import InputError, LDMEngineError

MAX_LINE_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: Longer ones first: UTF-32's begins with UTF-16's.
_BOMS = {
    b"\xff\xfe\0\0": "utf-32-le", b"\0\0\xfe\xff": "utf-32-be", b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be",
}  # fmt: skip
_WORKBOOK = "a zip archive or an Excel or OpenDocument workbook"
_OLD_WORKBOOK = "an old Excel workbook"
#: What files of other kinds begin with; an article belongs to the name.
_OTHERS = {
    _GZIP: "gzip-compressed", _ZSTD: "zstd-compressed", b"\xfd7zXZ\0": "xz-compressed",
    b"\x04\x22\x4d\x18": "lz4-compressed", b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    **{bytes([0x50 + i]) + b"\x2a\x4d\x18": "zstd-compressed by pzstd" for i in range(16)},
    **{b"BZh%d1AY&SY" % level: "bzip2-compressed" for level in range(1, 10)},
    b"Rar!\x1a": "a RAR archive", b"PK\x03\x04": _WORKBOOK,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _OLD_WORKBOOK, b"PAR1\x15": "Parquet",
    b"ARROW1\0\0": "an Arrow file", b"Obj\x01": "Avro",
    b"SQLite format 3\0": "an SQLite database", b"\x93NUMPY": "a NumPy array",
    **{bytes([0x80, protocol]): "a pickle" for protocol in range(2, 6)},
    b"%PDF-": "a PDF", b"{\\rtf": "RTF", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture",
}  # fmt: skip
_SAVE = "Save it as UTF-8."
_REMEDIES = {
    "Parquet": "Name it .parquet, or give --jobs-format parquet.",
    _WORKBOOK: "Save the sheet as CSV UTF-8.",
    _OLD_WORKBOOK: "Save the sheet as CSV UTF-8.",
    **{kind: "Decompress it first." for kind in _OTHERS.values() if kind.endswith("compressed")},
}
#: Of the first bytes, the share of zeros above which they are no text of one byte a letter.
_ZEROS = 0.2


def describe(head: bytes) -> str:
    """What a file is that begins with `head`, with its article; "" if it may be text."""
    return next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), "")


def read_lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str | None, str]]:
    """Number and text of each line, or None and a fault; never more than a line in memory.

    A line ends with LF or CR LF; in a file that has CR alone, with CR.

    Raises:
        InputError: if the file, which errors call `name`, is no text or is damaged.
    """
    stream = open_text(file, name)
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None, f"it is longer than {MAX_LINE_BYTES >> 20} MiB"
            continue
        try:
            yield number, line.decode().rstrip("\r\n"), ""
        except UnicodeDecodeError as error:
            yield (
                number,
                None,
                (f"it is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"),
            )


def open_text(file: IO[bytes], name: str) -> io.BufferedReader:
    """The text of `file` as UTF-8 without a byte order mark.

    gzip and zstd are decompressed; UTF-16 and UTF-32 are decoded if they begin with a byte order
    mark.

    Raises:
        InputError: if it is neither that nor a text of one byte a letter, naming what it is.
    """
    head, chunks = _begun(_chunks(file))
    if head.startswith((_GZIP, _ZSTD)):
        kind = "gzip" if head.startswith(_GZIP) else "zstd"
        head, chunks = _begun(_decompressed(chunks, kind, name))
    if kind := describe(head):
        raise InputError(f"{name} is {kind}; text is accepted. {_REMEDIES.get(kind, _SAVE)}")
    bom = next((bom for bom in _BOMS if head.startswith(bom)), b"")
    if not bom and (kind := _unmarked(head)):
        raise InputError(
            f"{name} is {kind}; UTF-8 is accepted, and UTF-16 or UTF-32 that begins with a byte "
            f"order mark. {_SAVE}"
        )
    encoding = _BOMS.get(bom, "utf-8")
    head, chunks = _begun(_as_utf8(chunks, encoding, len(bom), name))
    ends = head[:-1] if len(head) >= _CHUNK_BYTES else head  # the LF may be the next byte
    if b"\r" in ends and b"\n" not in head:
        chunks = (chunk.replace(b"\r", b"\n") for chunk in chunks)
    return io.BufferedReader(_Stream(chunks), _CHUNK_BYTES)


def _unmarked(head: bytes) -> str:
    """What a head of many zero bytes is; "" for one of few."""
    if head.count(0) < max(1, _ZEROS * len(head)):
        return ""
    zeros = [head[place::4].count(0) for place in range(4)]
    most = len(head) // 4
    if not len(head) % 4 and most in (zeros[0], zeros[3]):  # code points have three bytes at most
        if zeros[3] == most and 2 * zeros[2] >= most > zeros[0]:
            return "UTF-32-LE without a byte order mark"
        if zeros[0] == most and 2 * zeros[1] >= most > zeros[3]:
            return "UTF-32-BE without a byte order mark"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if max(even, odd) > 3 * min(even, odd):
        return f"UTF-16-{'LE' if odd > even else 'BE'} without a byte order mark"
    return "binary"


def _begun(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, and all of `chunks`, these included."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _CHUNK_BYTES:
            break
    return head, chain([head], chunks)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _decompressed(chunks: Iterator[bytes], kind: str, name: str) -> Iterator[bytes]:
    source = io.BufferedReader(_Stream(chunks), _CHUNK_BYTES)
    try:
        if kind == "gzip":
            yield from _chunks(gzip.GzipFile(fileobj=source))  # type: ignore[arg-type]
        else:
            pyarrow = import_pyarrow("zstd")
            yield from _chunks(pyarrow.CompressedInputStream(source, "zstd"))
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, LDMEngineError) or getattr(error, "errno", None):
            raise
        raise InputError(
            f"{name} is {kind}-compressed and damaged or cut: {str(error)[:200]}. Write it again."
        ) from error


def _as_utf8(chunks: Iterator[bytes], encoding: str, mark: int, name: str) -> Iterator[bytes]:
    """`chunks` without the first `mark` bytes as UTF-8; lone surrogates become what is none."""
    first = next(chunks, b"")[mark:]
    if encoding == "utf-8":
        yield first
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for chunk in chain([first], chunks):
            yield decoder.decode(chunk).encode(errors="surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise InputError(
            f"{name} begins as {encoding.upper()} and is damaged or cut: {str(error)[:200]}. "
            f"{_SAVE}"
        ) from error


class _Stream(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as a chunk goes."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def import_pyarrow(what: str) -> Any:
    """pyarrow, which is an extra.

    Raises:
        LDMEngineError: if it is not installed, saying that `what` needs it.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise LDMEngineError(
            f"{what} cannot be read: {error}. Install it with: pip install 'ldm-engine[render]'"
        ) from error
    return pyarrow

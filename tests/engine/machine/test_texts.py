from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ldm_engine.errors import InputError
from ldm_engine.machine import texts
from ldm_engine.machine.texts import read_lines

MARKED = {
    "utf-8": b"", "utf-8-sig": b"", "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}  # fmt: skip
#: Text without what ends lines; it begins with a letter, as nothing of another kind does.
LINES = st.lists(
    st.text(
        st.characters(blacklist_characters="\r\n\0\ufeff", blacklist_categories=["Cs"]), max_size=30
    ).map("a".__add__),
    min_size=1,
    max_size=6,
)


def lines_of(content):
    return [(text, fault) for _, text, fault in read_lines(io.BytesIO(content), "x")]


def compressed(content, how):
    if how == "gzip":
        return gzip.compress(content)
    if how == "zstd":
        pyarrow = pytest.importorskip("pyarrow")
        stored = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(stored, "zstd") as stream:
            stream.write(content)
        return stored.getvalue().to_pybytes()
    return content


@given(
    LINES,
    st.sampled_from(list(MARKED)),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "gzip", "zstd"]),
    st.booleans(),
)
def test_a_text_is_the_same_in_any_encoding_and_compression(lines, encoding, end, how, is_ended):
    text = end.join(lines) + (end if is_ended else "")
    content = compressed(MARKED[encoding] + text.encode(encoding), how)
    assert lines_of(content) == [(line, "") for line in lines]


@given(LINES, st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]))
def test_a_text_without_its_mark_is_never_rendered(lines, encoding):
    """It is refused where zeros show it; else no line of it is text without zeros.

    A character that has a byte of a line's end in it, as U+0A05 has, may leave such a line.
    """
    assume(not any({0x0A, 0x0D} & {*line.encode(encoding)} for line in lines))
    content = "\n".join(lines).encode(encoding)
    told, found = "", []
    try:
        found = lines_of(content)
    except InputError as error:
        told = str(error)
    assert "byte order mark" in told or found
    assert all(text is None or "\0" in text for text, _ in found)


def test_ascii_in_utf16_without_its_mark_is_refused_by_name():
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        with pytest.raises(InputError, match=f"x is {encoding.upper()} without a byte order mark"):
            lines_of("a red circle\n".encode(encoding))


def test_long_texts_are_read_as_a_stream():
    lines = [f"line {i} é🐿 " + "x" * (i % 300) for i in range(3000)]
    for encoding in MARKED:
        content = MARKED[encoding] + "\r\n".join(lines).encode(encoding)
        assert [text for text, _ in lines_of(gzip.compress(content))] == lines
    # The CR of a long first line is at the end of what is looked at, its LF behind.
    first = "x" * (texts._CHUNK_BYTES - 1)
    assert [text for text, _ in lines_of(f"{first}\r\nb\rc\r\n".encode())] == [first, "b\rc"]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_cut_compressed_file_is_told(how):
    whole = compressed(b"".join(b"line %d\n" % i for i in range(2000)), how)
    for size in (len(whole) // 2, len(whole) - 1):
        with pytest.raises(InputError, match=f"{how}-compressed and damaged or cut"):
            lines_of(whole[:size])


def test_a_cut_utf16_file_is_told():
    content = codecs.BOM_UTF16_LE + "abc\nd".encode("utf-16-le")
    with pytest.raises(InputError, match="UTF-16-LE and is damaged"):
        lines_of(content[:-1])


def _zip():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("xl/workbook.xml", "x")
    return content.getvalue()


def _npy():
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (_zip(), "Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "old Excel"),
        (b"PAR1\x15\x04\x15", "Parquet.*--jobs-format parquet"),
        (bz2.compress(b"a\n"), "bzip2-compressed.*Decompress"),
        (lzma.compress(b"a\n"), "xz-compressed.*Decompress"),
        (gzip.compress(gzip.compress(b"a\n")), "gzip-compressed; text"),
        (gzip.compress(_zip()), "Excel"),
        (_npy(), "NumPy"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (bytes(100), "binary"),
    ],
)
def test_other_files_are_refused_by_name(content, kind):
    with pytest.raises(InputError, match=kind):
        lines_of(content)


def test_prompts_that_begin_like_other_files_are_prompts():
    lines = ["ORC warrior", "PAR1 of a game", "BZh", "Rar!", "{", "%PDF", "7z", "PK", "BM", "ID3"]
    for line in lines:
        assert lines_of(f"{line}\n".encode()) == [(line, "")]


def test_a_line_that_is_no_utf8_is_a_fault_among_others():
    (first, _), (second, fault), (third, _) = lines_of(b"a\ngr\xf6\xdfe\nb\n")
    assert (first, second, third) == ("a", None, "b")
    assert "not UTF-8" in fault
    surrogate = codecs.BOM_UTF16_LE + "a\n".encode("utf-16-le") + b"\x00\xd8\n\0"
    (first, _), (second, fault) = lines_of(surrogate)
    assert (first, second) == ("a", None)
    assert "not UTF-8" in fault

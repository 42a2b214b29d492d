"""Lists as other systems write them: marks, line ends, encodings, repeats."""

import os

import pytest

from v2v_jax.datasets.base.text_lists import (
    as_present,
    read_lines,
    warn_of_overlap,
    without_repeats,
)
from v2v_jax.errors import DataError

TEXT = "void\nStraße 1\n\n  sky\t \nfin"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_ends_and_encodings(tmp_path, encoding, end, caplog):
    path = tmp_path / "list.txt"
    path.write_bytes(TEXT.replace("\n", end).encode(encoding))
    expected = [("void", 1), ("Straße 1", 2), ("sky", 4), ("fin", 5)]
    assert read_lines(path, "x") == [(line, f"{path}, line {n}") for line, n in expected]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"List {path} is not UTF-8; it is read as Windows-1252."] * (
        encoding == "cp1252"
    )


def test_utf_16_of_either_order(tmp_path):
    path = tmp_path / "list.txt"
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        path.write_bytes(mark + TEXT.encode(encoding))
        assert read_lines(path, "x")[1][0] == "Straße 1"


def test_characters_at_which_python_would_split(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a\u2028b\x0cc\u0085d\n", encoding="utf-8")
    assert [line for line, _ in read_lines(path, "x")] == ["a\u2028b\x0cc\u0085d"]


@pytest.mark.parametrize("content", [b"\x00\x01", b"\xff\xfe\x00", b"\x81", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_text(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"list.txt cannot be read \(.*\); unpack it again\.$"):
        read_lines(path, "unpack it again")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "pipe", "."):
        with pytest.raises(DataError, match="it is not a file"):
            read_lines(tmp_path / name, "x")


def test_names_that_are_there_exactly_come_first():
    both = ["cafe\u0301", "café"]
    assert as_present(both, both) == both
    assert as_present(["cafe\u0301", "x", "\ud800", "../café"], ["café"]) == [
        *("café", "x", "\ud800", "../café")
    ]


def test_repeats_and_overlaps(caplog):
    assert without_repeats("d", ["b", "a", "b", "c"], "train.txt") == ["b", "a", "c"]
    assert without_repeats("d", ["b", "a"], "train.txt") == ["b", "a"]
    warn_of_overlap("d", ["a", "b"], ["c"], "lists")
    warn_of_overlap("d", ["a", "b"], ["b", "c", "b"], "lists")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Dataset d: train.txt repeats names (1: b)")
    assert second.startswith("Dataset d: 1 of the 2 videos for testing are also for training (b)")

"""The files of evaluation sets: every text in them is found, whatever the fields are called."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ares_coordinator.distiller.benchtexts import read_texts
from ares_p2p.errors import ConfigFault

FORMS = {
    "a.json": '{"data": [{"q": "first, one", "a": ["second"]}, {"n": 3, "z": null}]}',
    "a.jsonl": '{"q": "first, one"}\n\n{"x": {"y": "second"}}\n',
    "a.csv": 'q,a\n"first, one",second\n',
    "a.tsv": "first, one\tsecond\n",
    "a.txt": "first, one\n\nsecond\n",
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_every_text_is_found(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    data = b"\xef\xbb\xbf" + FORMS[name].encode()  # with the mark that some editors write
    path.write_bytes(gzip.compress(data) if packed else data)
    found = [text.strip() for text in read_texts(path)]
    assert {"first, one", "second"} <= set(found)


def test_plain_text_gives_paragraphs_and_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert [text.strip() for text in read_texts(path)] == ["one\ntwo", "one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"', "line 2: no JSON"),
        ("a.json", b"[", "no JSON"),
        ("a.txt", b"\xff\xfe\x00", "as text"),
        ("a.json.gz", b"no archive", "cannot be read"),
        ("a.json.gz", gzip.compress(b"[" * 5000, mtime=0)[:-9], "cannot be read"),
        ("a.csv", b'"' + b"x" * 200_000, "as a table"),
        ("a.parquet", b"PAR1", "is Parquet"),
    ],
)
def test_file_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigFault, match=message):
        list(read_texts(path))
    with pytest.raises(ConfigFault, match="cannot be read"):
        list(read_texts(tmp_path / "nowhere.txt"))

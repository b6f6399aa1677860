"""The texts in the files of an evaluation set, whatever its fields are called.

    .json .jsonl .ndjson    every text in it
    .csv .tsv               every cell
    anything else           plain text: every paragraph, and every line of one

each also compressed as .gz. Which field is the question and which the answer does not matter: a
row may quote none of them. Texts that are too short to be anybody's are left out by the index.

It refuses Parquet, which needs a library larger than all that it would be used for here.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ares_p2p.errors import ConfigFault

_PARAGRAPHS: Final = re.compile(r"\n\s*\n")
_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file, one after another.

    Raises: ConfigFault: it cannot be read, or is not what its name says.
    """
    suffixes = [suffix.casefold() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind == [".parquet"]:
        raise ConfigFault(
            f"{path.name} is Parquet, which is not read",
            hint="Write it as JSON Lines first, for example with DuckDB: "
            f"COPY (FROM '{path.name}') TO '{path.stem}.jsonl'",
        )
    try:
        with _opened(path, packed=packed) as file:
            yield from _texts(file, path, kind[0] if kind else "")
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigFault(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigFault(f"{path} cannot be read as text: {error}") from error
    except csv.Error as error:
        raise ConfigFault(f"{path} cannot be read as a table: {error}") from error


def _opened(path: Path, *, packed: bool) -> IO[str]:
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _texts(file: IO[str], path: Path, kind: str) -> Iterator[str]:
    if kind in _SEPARATORS:
        for cells in csv.reader(file, delimiter=_SEPARATORS[kind]):
            yield from cells
    elif kind in (".jsonl", ".ndjson"):
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield from _texts_in(_decoded(line, f"{path}, line {number}"))
    elif kind == ".json":
        yield from _texts_in(_decoded(file.read(), str(path)))
    else:
        for paragraph in _PARAGRAPHS.split(file.read()):
            yield paragraph
            if "\n" in paragraph.strip():
                yield from paragraph.splitlines()


def _decoded(text: str, place: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigFault(f"{place}: no JSON: {error}") from error
    return value


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)

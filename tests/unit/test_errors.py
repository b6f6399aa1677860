"""The error tree: codes are unique and well-formed, the docs list all of them, faults travel."""

from __future__ import annotations

import pickle
import re
import runpy
from pathlib import Path

import pytest

from ares_p2p import errors
from ares_p2p.errors import (
    AresError,
    BadSignature,
    ConfigFault,
    InternalFault,
    InviteMalformed,
    NetworkFault,
    PeerFault,
    all_errors,
)

BRANCHES = (ConfigFault, NetworkFault, PeerFault, InternalFault)


def test_codes_are_unique_and_well_formed() -> None:
    codes = [cls.code for cls in all_errors()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"ARES-E\d{3}", code) for code in codes)


def test_every_class_of_the_module_has_a_code_of_its_own() -> None:
    classes = {one for one in vars(errors).values() if isinstance(one, type)}
    assert {one for one in classes if issubclass(one, AresError)} == set(all_errors())


def test_every_class_belongs_to_one_branch_and_has_its_exit_code() -> None:
    exit_codes = {ConfigFault: 78, NetworkFault: 75, PeerFault: 76, InternalFault: 70}
    for cls in all_errors():
        if cls is AresError:
            continue
        branches = [branch for branch in BRANCHES if issubclass(cls, branch)]
        assert len(branches) == 1, cls
        assert cls.exit_code == exit_codes[branches[0]], cls


def test_every_class_says_what_it_means() -> None:
    assert [cls.__name__ for cls in all_errors() if not (cls.__doc__ or "").strip()] == []


def test_docs_list_the_errors_as_they_are(repository: Path) -> None:
    script = runpy.run_path(str(repository / "scripts" / "make_errors_doc.py"))
    page = (repository / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page == script["build_page"](), "run `make errors`"
    for cls in all_errors():
        assert cls is AresError or f"`{cls.code}`" in page


def test_message_code_and_hint_are_shown() -> None:
    error = InviteMalformed("checksum does not fit")
    assert str(error) == "[ARES-E011] checksum does not fit"
    assert error.message == "checksum does not fit"
    assert "ares-bootstrap invite" in error.hint
    assert InviteMalformed("x", hint="").hint == ""


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_a_fault_survives_the_way_to_another_process(cls: type[AresError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("why", hint="do this")))
    assert type(copy) is cls
    assert (copy.message, copy.hint, str(copy)) == ("why", "do this", f"[{cls.code}] why")


def test_branches_can_be_caught_apart() -> None:
    with pytest.raises(PeerFault):
        raise BadSignature("no")
    assert not issubclass(BadSignature, ConfigFault | NetworkFault | InternalFault)

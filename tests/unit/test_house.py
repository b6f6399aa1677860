"""The house rules that no linter knows: packaging, dependencies, hostile input, docs that drift."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ares_p2p
from ares_p2p import errors

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {
    "ares_p2p": ROOT / "ares_p2p",
    "ares_peer": ROOT / "peer" / "ares_peer",
    "ares_coordinator": ROOT / "coordinator" / "ares_coordinator",
    "ares_bootstrap": ROOT / "dht_bootstrap" / "ares_bootstrap",
}
OWN_EXTRA = {"ares_peer": "peer", "ares_coordinator": "coordinator"}


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    """Yield (package, path, syntax tree) of every hand-written module."""
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            if not path.name.endswith("_pb2.py"):
                yield package, path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


# --- packaging ---------------------------------------------------------------------------------


def test_four_source_roots_are_the_same_everywhere() -> None:
    tool = PROJECT["tool"]
    roots = [".", "peer", "coordinator", "dht_bootstrap"]
    assert tool["setuptools"]["packages"]["find"]["where"] == roots
    assert tool["pytest"]["ini_options"]["pythonpath"] == [*roots, "tests", "scripts"]
    assert tool["mypy"]["mypy_path"] == [*roots, "scripts"]
    assert tool["importlinter"]["root_packages"] == list(PACKAGES)
    for root in roots[1:]:
        assert not (ROOT / root / "__init__.py").exists(), "a source root is no package"


def test_version_is_said_once() -> None:
    assert PROJECT["project"]["version"] == ares_p2p.__version__


@pytest.mark.parametrize("command", sorted(PROJECT["project"]["scripts"]))
def test_entry_point_exists(command: str) -> None:
    module, function = PROJECT["project"]["scripts"][command].split(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = {ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)}
    assert function in names | assigned


def _requirements(*extras: str) -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"]]
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def test_constraints_pin_what_the_project_needs() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for wanted in _requirements(*PROJECT["project"]["optional-dependencies"]):
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} has no pin"
        assert wanted.specifier.contains(version), f"{wanted} does not admit {version}"
    assert "+" not in pinned["torch"], "a build tag would tie the pin to one index"


def test_every_import_is_declared_where_it_is_needed() -> None:
    """The library and the bootstrap node run on the base dependencies, a role on its extra too."""
    owners = packages_distributions()
    missing = set()
    for package, path, tree in modules():
        declared = {
            canonicalize_name(one.name)
            for one in _requirements(*([OWN_EXTRA[package]] if package in OWN_EXTRA else []))
        }
        for node in ast.walk(tree):
            for name in _imported(node):
                top = name.split(".")[0]
                if top in {*sys.stdlib_module_names, *PACKAGES, "_typeshed"}:
                    continue
                known = {canonicalize_name(owner) for owner in owners.get(top, [top])}
                if name.startswith("google.protobuf"):
                    known = {"protobuf"}  # `google` is a name space with many owners
                if top == "psycopg" or known & declared:
                    continue
                missing.add(f"{place(path, node)} imports {top}")
    assert sorted(missing) == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    return []


# --- errors, hostile input ---------------------------------------------------------------------


def test_every_code_has_its_place_in_the_tree() -> None:
    known = {cls.__name__ for cls in errors.all_errors()}
    outside = [
        f"{place(path, node)} {node.name}"
        for _, path, tree in modules()
        if path.name != "errors.py" or path.parent.name != "ares_p2p"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and {ast.unparse(base).split(".")[-1] for base in node.bases} & known
        and re.search(r"^    code\b", ast.unparse(node), re.MULTILINE)
    ]
    assert outside == [], "codes live in ares_p2p/errors.py, where the docs find them"


FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "torch.load",
    "dill.load", "dill.loads", "joblib.load", "yaml.load", "eval", "os.system",
}  # fmt: skip


def test_no_call_that_runs_what_it_reads() -> None:
    found = []
    for _, path, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) in FORBIDDEN_CALLS:
                found.append(f"{place(path, node)} {ast.unparse(node.func)}")
            for keyword in node.keywords:
                value = keyword.value
                risky = keyword.arg in {"trust_remote_code", "shell", "allow_pickle"}
                if risky and not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(f"{place(path, node)} {keyword.arg}")
    assert found == []


def test_no_print_outside_the_command_line() -> None:
    found = [
        place(path, node)
        for _, path, tree in modules()
        if path.name != "cli.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert found == []


# --- documents ---------------------------------------------------------------------------------


def test_readme_names_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"^\s*make ([a-z]+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
    commands = set(re.findall(r"^\s*(ares-[a-z]+) ", readme, re.MULTILINE))
    assert commands <= set(PROJECT["project"]["scripts"])


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:|docs/pictures/", target):  # the demo draws the pictures
            assert (path.parent / target).exists(), f"{target} is missing"


def test_every_decision_names_context_and_consequences() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(record.name[:4]) for record in records]
    assert numbers == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert re.findall(r"^## (\w+)", text, re.MULTILINE)[:3] == [
            "Context",
            "Decision",
            "Consequences",
        ], record.name

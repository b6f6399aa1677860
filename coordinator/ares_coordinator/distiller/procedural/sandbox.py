"""Runs small functions in a child with limits, after reading their syntax tree.

Three fences, none of them enough alone: only a short list of syntax nodes, names and methods is
let through (no import, no attribute but a few of str's); the child starts with an empty
environment and `-I -S`; rlimits bound its time, memory, files and processes. Good for answers of
this package's tasks. Code in general belongs into a container.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ares_p2p.errors import InternalFault

TIMEOUT_S: Final = 10.0  # wall clock of one child; a batch of 64 takes 0.05 s
CPU_S: Final = 5
MEMORY_BYTES: Final = 512 * 1024**2
MAX_SOURCE_CHARS: Final = 2_000
MAX_CONSTANT: Final = 10**6  # longer loops and texts are none of these tasks
_BUILTINS: Final = frozenset({"len", "sum", "max", "min", "sorted", "abs", "str", "range", "print", "list"})
_METHODS: Final = frozenset({"upper", "lower", "append", "join", "strip"})
_NODES: Final = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign,
    ast.For, ast.If, ast.Expr, ast.Call, ast.Name, ast.Attribute, ast.Constant, ast.BinOp,
    ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.ListComp, ast.comprehension,
    ast.Subscript, ast.Slice, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_CHILD: Final = """
import contextlib, io, json, resource, sys
job = json.load(sys.stdin)
for name, bound in (("CPU", job["cpu_s"]), ("AS", job["memory"]), ("FSIZE", 0), ("NPROC", 0),
                    ("NOFILE", 3), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (bound, bound))
results = []
for source, function, inputs in job["programs"]:
    out = io.StringIO()
    try:
        space = {}
        with contextlib.redirect_stdout(out):
            exec(source, space)
            values = [space[function](value) for value in inputs] if function else [None]
        results.append([values, out.getvalue()])
        json.dumps(results[-1])
    except Exception:
        results.append(None)
sys.stdout.write(json.dumps(results))
"""


@dataclass(frozen=True, slots=True)
class Program:
    """Source to run, and a function of it to call once for each of `inputs` ("" for none)."""

    source: str
    function: str = ""
    inputs: tuple[int | str | tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program returned for each input, and what it printed."""

    values: tuple[object, ...]
    printed: str


def is_harmless(source: str) -> bool:
    """Return whether `source` uses nothing but the syntax that these tasks need."""
    if len(source) > MAX_SOURCE_CHARS:
        return False
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.FunctionDef) and (node.decorator_list or node.name.startswith("_")):
            return False
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
            return False
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > MAX_CONSTANT:
            return False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not _may_call(node.func.id, tree):
            return False
    return True


def _may_call(name: str, tree: ast.Module) -> bool:
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return name in _BUILTINS or name in own


def run_programs(programs: Sequence[Program]) -> list[Outcome | None]:
    """Return the outcome of every program, None where it failed or was not let through.

    All harmless ones share one child; if that child is killed, each of them runs in its own.

    Raises: InternalFault: no child can be started.
    """
    allowed = [program for program in programs if is_harmless(program.source)]
    ran = iter(_run(allowed))
    return [next(ran) if is_harmless(program.source) else None for program in programs]


def _run(programs: Sequence[Program]) -> list[Outcome | None]:
    if not programs:
        return []
    job = {
        "cpu_s": CPU_S,
        "memory": MEMORY_BYTES,
        "programs": [[p.source, p.function, p.inputs] for p in programs],
    }
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps(job).encode(), capture_output=True, timeout=TIMEOUT_S, env={}, cwd="/",
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        child = None
    except OSError as error:
        raise InternalFault("cannot start a child for checking code") from error
    if child is not None and child.returncode == 0:
        return [_outcome(result) for result in json.loads(child.stdout)]
    if len(programs) == 1:
        return [None]
    return [_run([program])[0] for program in programs]


def _outcome(result: list[object] | None) -> Outcome | None:
    if result is None:
        return None
    values, printed = result
    assert isinstance(values, list) and isinstance(printed, str)  # our own child wrote it
    return Outcome(tuple(values), printed)

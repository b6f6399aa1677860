"""Runs small functions in a child with limits, after reading their syntax tree.

Three fences, none of them enough alone: only a short list of syntax nodes, names and methods is
let through (no import, no attribute but a few of str's); the child starts with an empty
environment and `-I -S`; rlimits bound its time, memory, files and processes. Good for answers of
this package's tasks. Code in general belongs into a container.
"""

from __future__ import annotations

import ast
import builtins
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ares_p2p.errors import InternalFault

TIMEOUT_S: Final = 10.0  # wall clock of one child; a batch of 64 takes 0.05 s
CPU_S: Final = 5
MEMORY_BYTES: Final = 512 * 1024**2
MAX_SOURCE_CHARS: Final = 2_000
MAX_RESULT_CHARS: Final = 20_000  # what one program may return and print, as JSON
MAX_CONSTANT: Final = 10**6  # longer loops and texts are none of these tasks
_BUILTINS: Final = frozenset(
    {"len", "sum", "max", "min", "sorted", "abs", "str", "range", "print", "list"}
)
_PYTHON_NAMES: Final = frozenset(dir(builtins))
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
        result = [values, out.getvalue()]
        fits = len(json.dumps(result)) <= job["max_result_chars"]
    except Exception:
        fits = False
    results.append(result if fits else None)
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
    """Return whether `source` uses nothing but the syntax and the names that these tasks need."""
    if len(source) > MAX_SOURCE_CHARS:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a strange escape in somebody's text is not our bug
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    own = frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return all(_is_harmless_node(node, own) for node in ast.walk(tree))


def _is_free_name(name: str) -> bool:
    return not name.startswith("_") and name not in _PYTHON_NAMES


def _is_harmless_node(node: ast.AST, own: frozenset[str]) -> bool:
    match node:
        case ast.FunctionDef():
            return _is_free_name(node.name) and not node.decorator_list
        case ast.arg():
            return _is_free_name(node.arg)
        case ast.Name(id=name, ctx=context):  # a builtin may be read if it is listed, never bound
            return _is_free_name(name) or (name in _BUILTINS and isinstance(context, ast.Load))
        case ast.Call(func=ast.Name(id=name)):
            return name in _BUILTINS or name in own
        case ast.Call(func=function):
            return isinstance(function, ast.Attribute)
        case ast.Attribute(attr=name):
            return name in _METHODS
        case ast.BinOp(op=ast.Pow() | ast.LShift()):
            return False
        case ast.Constant(value=int() as value):
            return abs(value) <= MAX_CONSTANT
    return isinstance(node, _NODES)


def run_programs(programs: Sequence[Program], *, cpu_s: int = CPU_S) -> list[Outcome | None]:
    """Return the outcome of every program, None where it failed or was not let through.

    All harmless ones share one child; if that child is killed, each of them runs in its own.

    Args:
        programs: what to run.
        cpu_s: processor seconds of one child.
    Raises: InternalFault: no child can be started.
    """
    harmless = [is_harmless(program.source) for program in programs]
    allowed = [program for program, good in zip(programs, harmless, strict=True) if good]
    ran = iter(_run(allowed, cpu_s=cpu_s))
    return [next(ran) if good else None for good in harmless]


def _run(programs: Sequence[Program], *, cpu_s: int) -> list[Outcome | None]:
    if not programs:
        return []
    job = {
        "cpu_s": cpu_s,
        "memory": MEMORY_BYTES,
        "max_result_chars": MAX_RESULT_CHARS,
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
    return [_run([program], cpu_s=cpu_s)[0] for program in programs]


def _outcome(result: list[object] | None) -> Outcome | None:
    if result is None:
        return None
    values, printed = result
    assert isinstance(values, list)  # our own child wrote it
    assert isinstance(printed, str)
    return Outcome(tuple(values), printed)

"""Code of answers runs in a child with limits, and only if it is harmless."""

from __future__ import annotations

import time

import pytest

from ares_coordinator.distiller.procedural.sandbox import (
    Outcome,
    Program,
    is_harmless,
    run_programs,
)


def test_programs_return_and_print() -> None:
    outcomes = run_programs(
        [
            Program("def f(x):\n    return x + 1", "f", (1, 2)),
            Program("for i in range(3):\n    print(i)"),
            Program("def f(x):\n    return x[9]", "f", (1,)),
            Program("def f(xs):\n    return sum([x for x in xs])", "f", ((1, 2),)),
        ]
    )
    assert outcomes == [Outcome((2, 3), ""), Outcome((None,), "0\n1\n2\n"), None, Outcome((3,), "")]


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "open('/etc/passwd')",
        "().__class__",
        "'{0.__class__}'.format(1)",
        "__import__('os')",
        "eval('1')",
        "lambda: 0",
        "while True: pass",
        "x = 9 ** 9 ** 9",
        "x = 1 << 99999",
        "def f(x):\n    try:\n        return 1\n    except E:\n        return 2",
        "class A: pass",
        "@print\ndef f(x):\n    return x",
        "range(10000000)",
        "x = (",
        "\x00",
        "(" * 1_000,
        "x = 1\n" * 1_000,
        "f'{1}'",
        "getattr(print, 'x')",
        "[eval][0]('1')",
        "f = eval\nf('1')\neval = 1",
        "def f(x):\n    return x\nf = open\nf('/etc/passwd')",
        "def eval(x):\n    return x",
        "print = 1",
        "def f(list):\n    return list",
        "for i in range(9):\n    print('a' * 10000)",
        "def f(x):\n    return f(x)\nf(1)",
        "[1][0]()",
        "(print)('a').upper.lower()()",
    ],
)
def test_harmful_syntax_does_not_pass(source: str) -> None:
    assert not is_harmless(source) or run_programs([Program(source)]) == [None]


def test_a_result_that_is_no_json_spoils_no_other() -> None:
    odd = "def f(x):\n    return f"
    outcomes = run_programs([Program(odd, "f", (1,)), Program("print(2)")])
    assert outcomes == [None, Outcome((None,), "2\n")]


def test_endless_work_is_stopped_and_the_others_still_count() -> None:
    slow = "x = 0\nfor a in range(1000000):\n    for b in range(1000000):\n        x = x + 1"
    big = "x = [0] * 1000000 * 1000000"
    started = time.monotonic()
    outcomes = run_programs([Program("print(1)"), Program(big), Program("print(2)")])
    assert outcomes == [Outcome((None,), "1\n"), None, Outcome((None,), "2\n")]
    assert run_programs([Program(slow)], cpu_s=1) == [None]
    assert time.monotonic() - started < 30  # of a child that would run for a day

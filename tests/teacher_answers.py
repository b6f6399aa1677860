"""What the stand-in teacher answers: text that fits what was asked, made from the question's hash.

It keeps the rules that the flows check (a result stands in its answer, two solutions agree, a call
fits its tool, a proof is in its document), so that a test can break one of them and see.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

WORDS = (
    "amber", "basin", "copper", "dusk", "ember", "fallow", "gravel", "harbour", "inlet", "juniper",
    "kettle", "lantern", "meadow", "nettle", "orchard", "pebble", "quarry", "ripple", "saddle",
    "timber", "umber", "valley", "willow", "yarrow", "zinc", "anvil", "bramble", "cellar", "drift",
)  # fmt: skip


def number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def sentence(text: str, words: int = 9) -> str:
    """Return a sentence that depends on a text."""
    number, chosen = number_of(text), []
    for _ in range(words):
        number, place = divmod(number, len(WORDS))
        number = number or number_of(f"{text}{len(chosen)}")
        chosen.append(WORDS[place])
    return " ".join(chosen).capitalize() + "."


def paragraph(text: str, sentences: int) -> str:
    return " ".join(sentence(f"{text} {n}") for n in range(sentences))


def answer_for(body: dict[str, Any]) -> str:
    """Return the answer to a request."""
    last = body["messages"][-1]["content"]
    asked = last[-1]["text"]
    system = body.get("system", [{"text": ""}])[0]["text"]
    form = body.get("output_config", {}).get("format")
    if form is None:
        return _free(body, asked)
    return json.dumps(_value(form["schema"]["properties"], body, system, asked))


def _free(body: dict[str, Any], asked: str) -> str:
    if asked.startswith("Write a document"):
        return f"# {sentence(asked, 4)}\n\n" + paragraph(asked, 12)
    if asked.startswith("What is said in sentence "):
        document = body["messages"][0]["content"][0]["text"]
        return f"It is said: {_sentences(document)[int(asked.rsplit(maxsplit=1)[-1][:-1])]}"
    return paragraph(asked, 4)


def _sentences(document: str) -> list[str]:
    return [one.strip() for one in document.split("\n\n", 1)[1].split(".") if one.strip()]


def _value(fields: dict[str, Any], body: dict[str, Any], system: str, asked: str) -> Any:
    if "tasks" in fields:
        return {"tasks": [_task(fields["tasks"]["items"], b) for b in asked.split("\n\n")]}
    if "scores" in fields:
        scores = {name: 3 + number_of(asked + name) % 3 for name in fields["scores"]["properties"]}
        return {"fault": "none", "scores": scores}
    if "questions" in fields:
        found = _sentences(body["messages"][0]["content"][0]["text"])
        return {
            "questions": [
                {
                    "question": f"What is said in sentence {n}?",
                    "answer": found[n],
                    "passage": found[n],
                }
                for n in range(int(asked.split()[1]))
            ]
        }
    if "kind" in fields:
        return _step(system, asked)
    result = f"{number_of(asked) % 1000}"
    values = {
        "answer": f"{paragraph(asked, 2)} Result: {result}",
        "result": result,
        "prompt": f"{paragraph(asked, 2)} What then?",
        "message": f"And what about {sentence(asked, 3)}",
        "result_json": json.dumps({"value": number_of(asked) % 100}),
    }
    return {name: values[name] for name in fields}


def _task(schema: dict[str, Any], brief: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "prompt": f"{paragraph(brief, 2)} What now?",
        "character": f"You are {sentence(brief, 2)} {paragraph(brief, 2)}",
        "tools": [
            {
                "name": "look_up",
                "description": sentence(brief),
                "parameters": [
                    {"name": "what", "type": "string", "description": "x", "required": True},
                    {"name": "most", "type": "integer", "description": "y", "required": False},
                ],
            }
        ],
    }
    return {name: values[name] for name in schema["properties"]}


def _step(system: str, asked: str) -> dict[str, str]:
    if asked.startswith("Result of the tool: "):
        return {"kind": "say", "tool": "", "arguments_json": "", "text": paragraph(asked, 1)}
    arguments = json.dumps({"what": sentence(asked, 2), "most": 3})
    return {"kind": "call", "tool": "look_up", "arguments_json": arguments, "text": ""}

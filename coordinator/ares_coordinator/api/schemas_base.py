"""What all replies share, and the one shape of every fault.

Names that existing pages of this API read are fixed, in their two styles: descriptions of a
network or a model are in snake_case, statistics and credits in camelCase.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Reply(BaseModel):
    """Base of all replies; written by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CamelReply(BaseModel):
    """Base of the replies in camelCase."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class ErrorBody(Reply):
    """What went wrong: a stable code, a sentence, and what to do."""

    code: str
    message: str
    hint: str


class ErrorReply(Reply):
    """The one shape of every fault."""

    error: ErrorBody

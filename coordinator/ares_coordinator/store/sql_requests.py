"""The ledger of paid requests over SQL. Replies are kept compressed."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import zstandard
from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.request_rows import (
    RequestPlace,
    RequestState,
    RequestTotals,
    Reserved,
    Spent,
    StoredReply,
    Usage,
)
from ares_coordinator.store.sql_base import SqlBase
from ares_p2p.errors import InternalFault

ZSTD_LEVEL = 10  # as the shards
MAX_REPLY_BYTES = 8 * 1024**2  # uncompressed; ten times what the longest answer of a model has
LET_GO = "let go"  # the code of a lost request whose question may be asked again

_USAGE = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
_NOTHING_CAME = {"stop_reason": "", "refusal": "", "answered_by": "", **dict.fromkeys(_USAGE, 0)}


class SqlRequests(SqlBase):
    """Implements `RequestStore`; its docstrings are there."""

    def reserve_request(
        self,
        key: bytes,
        place: RequestPlace,
        *,
        model: str,
        permission_ref: str,
        worst_microusd: int,
        check: Callable[[Spent], None],
        now_ms: int,
    ) -> Reserved:
        table, c = t.teacher_requests, t.teacher_requests.c
        with self._write() as connection:
            row = _row(connection, key)
            if row is not None and row.state != RequestState.RELEASED:
                return _known(row)
            check(_spent(connection, place))
            values = {
                "run_id": place.run_id,
                "day": place.day,
                "cycle": place.cycle,
                "category": place.category,
                "purpose": place.purpose,
                "model": model,
                "permission_ref": permission_ref,
                "state": str(RequestState.SENT),
                "charged_microusd": worst_microusd,
                "sent_ms": now_ms,
                "ended_ms": None,
                "code": "",
            }
            if row is None:
                connection.execute(insert(table).values(key=key, **values, **_NOTHING_CAME))
            else:
                connection.execute(update(table).where(c.key == key).values(**values))
            return Reserved(RequestState.SENT, permission_ref)

    def finish_request(self, key: bytes, reply: StoredReply, *, now_ms: int) -> None:
        with self._write() as connection:
            row = _must_exist(connection, key)
            if row.state == RequestState.DONE:
                if _reply_of(row) != reply:
                    raise InternalFault(f"request {key.hex()[:12]} has another reply already")
                return
            if row.state == RequestState.RELEASED:
                raise InternalFault(f"request {key.hex()[:12]} was released, and has a reply")
            _end(
                connection,
                key,
                state=RequestState.DONE,
                now_ms=now_ms,
                charged_microusd=reply.cost_microusd,
                code="",
                stop_reason=reply.stop_reason,
                refusal=reply.refusal,
                answered_by=reply.model,
                reply=zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(reply.text.encode()),
                **{name: getattr(reply.usage, name) for name in _USAGE},
            )

    def release_request(self, key: bytes, *, code: str, now_ms: int) -> None:
        with self._write() as connection:
            if _must_exist(connection, key).state == RequestState.DONE:
                raise InternalFault(f"request {key.hex()[:12]} has a reply, and was billed")
            _end(
                connection,
                key,
                state=RequestState.RELEASED,
                now_ms=now_ms,
                charged_microusd=0,
                code=code,
            )

    def lose_request(self, key: bytes, *, code: str, now_ms: int) -> None:
        with self._write() as connection:
            row = _must_exist(connection, key)
            if row.state == RequestState.LOST:
                return
            if row.state != RequestState.SENT:
                raise InternalFault(f"request {key.hex()[:12]} is {row.state}, not on its way")
            _end(connection, key, state=RequestState.LOST, now_ms=now_ms, code=code)

    def lose_requests(self, *, run_id: str, now_ms: int) -> int:
        c = t.teacher_requests.c
        left = (c.state == str(RequestState.SENT), c.run_id != run_id)
        lost = {"state": str(RequestState.LOST), "ended_ms": now_ms, "code": "the run ended"}
        with self._write() as connection:
            return connection.execute(
                update(t.teacher_requests).where(*left).values(**lost)
            ).rowcount

    def release_lost_requests(self, *, now_ms: int) -> int:
        table, c = t.teacher_requests, t.teacher_requests.c
        lost = (c.state == str(RequestState.LOST), c.code != LET_GO)
        with self._write() as connection:
            rows = connection.execute(select(c.key, c.sent_ms).where(*lost)).all()
            for key, sent_ms in rows:
                aside = sha256(b"ares-teacher-lost/1\0" + key + b"%d" % sent_ms).digest()
                values = {"key": aside, "code": LET_GO, "ended_ms": now_ms}
                connection.execute(update(table).where(c.key == key).values(**values))
            return len(rows)

    def spent(self, place: RequestPlace) -> Spent:
        with self._read() as connection:
            return _spent(connection, place)

    def request_totals(self, cycle: int | None = None) -> tuple[RequestTotals, ...]:
        c = t.teacher_requests.c
        query = select(
            c.category,
            c.state,
            func.count().label("requests"),
            func.sum(c.charged_microusd).label("cost"),
            *(func.sum(c[name]).label(name) for name in _USAGE),
        ).group_by(c.category, c.state)
        if cycle is not None:
            query = query.where(c.cycle == cycle)
        with self._read() as connection:
            rows = connection.execute(query.order_by(c.category, c.state)).all()
        return tuple(
            RequestTotals(
                category=row.category,
                state=RequestState(row.state),
                requests=row.requests,
                cost_microusd=int(row.cost),  # PostgreSQL sums integers into decimals
                usage=Usage(**{name: int(row._mapping[name]) for name in _USAGE}),
            )
            for row in rows
        )


def _row(connection: Connection, key: bytes) -> Row[Any] | None:
    table = t.teacher_requests
    return connection.execute(select(table).where(table.c.key == key)).first()


def _must_exist(connection: Connection, key: bytes) -> Row[Any]:
    row = _row(connection, key)
    if row is None:
        raise InternalFault(f"request {key.hex()[:12]} was never reserved")
    return row


def _end(
    connection: Connection, key: bytes, *, state: RequestState, now_ms: int, **values: Any
) -> None:
    table = t.teacher_requests
    ended = {"state": str(state), "ended_ms": now_ms, **values}
    connection.execute(update(table).where(table.c.key == key).values(**ended))


def _known(row: Row[Any]) -> Reserved:
    state = RequestState(row.state)
    if state is RequestState.SENT:
        raise InternalFault(f"request {row.key.hex()[:12]} is on its way already")
    reply = _reply_of(row) if state is RequestState.DONE else None
    return Reserved(state, row.permission_ref, reply)


def _reply_of(row: Row[Any]) -> StoredReply:
    text = zstandard.ZstdDecompressor().decompress(row.reply, max_output_size=MAX_REPLY_BYTES)
    return StoredReply(
        text=text.decode(),
        stop_reason=row.stop_reason,
        refusal=row.refusal,
        model=row.answered_by,
        usage=Usage(**{name: row._mapping[name] for name in _USAGE}),
        cost_microusd=row.charged_microusd,
    )


def _spent(connection: Connection, place: RequestPlace) -> Spent:
    c = t.teacher_requests.c

    def total(*where: ColumnElement[bool]) -> int:
        query = select(func.coalesce(func.sum(c.charged_microusd), 0)).where(*where)
        return int(connection.execute(query).scalar_one())

    return Spent(
        run_microusd=total(c.run_id == place.run_id),
        day_microusd=total(c.day == place.day),
        cycle_microusd=total(c.cycle == place.cycle),
        category_microusd=total(c.cycle == place.cycle, c.category == place.category),
    )

"""`ReportStore` over SQL: evaluations, dataset statistics, events."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, func, insert, select

from ares_coordinator.store import tables as t
from ares_coordinator.store.base import MAX_EVENTS
from ares_coordinator.store.rows import (
    CategoryCount,
    DatasetRow,
    EvaluatedExample,
    EvaluationRow,
    EventRow,
    Stage,
)
from ares_coordinator.store.sql_base import SqlBase, to_row, to_values


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class SqlReports(SqlBase):
    """Implements `ReportStore`; its docstrings are there."""

    def save_evaluation(self, evaluation: EvaluationRow) -> bool:
        c = t.evaluations.c
        wanted = (c.cycle == evaluation.cycle, c.stage == str(evaluation.stage))
        examples = [(one.category, one.nll, one.tokens) for one in evaluation.examples]
        with self._write() as connection:
            if connection.execute(select(c.cycle).where(*wanted)).first() is not None:
                return False
            connection.execute(
                insert(t.evaluations).values(
                    cycle=evaluation.cycle,
                    stage=str(evaluation.stage),
                    at_ms=evaluation.at_ms,
                    mean_loss=evaluation.mean_loss,
                    category_means_json=_compact(evaluation.category_means),
                    examples_json=_compact(examples),
                )
            )
            return True

    def evaluation(self, cycle: int, stage: Stage) -> EvaluationRow | None:
        c = t.evaluations.c
        query = select(t.evaluations).where(c.cycle == cycle, c.stage == str(stage))
        with self._read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return EvaluationRow(
            cycle=row.cycle,
            stage=Stage(row.stage),
            at_ms=row.at_ms,
            mean_loss=row.mean_loss,
            category_means=tuple((name, mean) for name, mean in json.loads(row[4])),
            examples=tuple(EvaluatedExample(*one) for one in json.loads(row[5])),
        )

    def save_dataset(self, dataset: DatasetRow) -> None:
        cycle = dataset.cycle
        with self._write() as connection:
            for table in (t.dataset_categories, t.dataset_rejections, t.datasets):
                connection.execute(delete(table).where(table.c.cycle == cycle))
            values = to_values(dataset)
            del values["categories"], values["rejected"]
            connection.execute(insert(t.datasets).values(**values))
            for count in dataset.categories:
                row = {"cycle": cycle, **to_values(count)}
                connection.execute(insert(t.dataset_categories).values(**row))
            for reason, examples in dataset.rejected:
                row = {"cycle": cycle, "reason": reason, "examples": examples}
                connection.execute(insert(t.dataset_rejections).values(**row))

    def dataset(self, cycle: int) -> DatasetRow | None:
        return next((row for row in self.datasets() if row.cycle == cycle), None)

    def datasets(self) -> tuple[DatasetRow, ...]:
        with self._read() as connection:
            rows = connection.execute(select(t.datasets).order_by(t.datasets.c.cycle)).all()
            return tuple(
                DatasetRow(
                    cycle=row.cycle,
                    teacher=row.teacher,
                    categories=_categories(connection, row.cycle),
                    rejected=_rejected(connection, row.cycle),
                    cost_microusd=row.cost_microusd,
                    disk_files=row.disk_files,
                    disk_bytes=row.disk_bytes,
                    updated_ms=row.updated_ms,
                )
                for row in rows
            )

    def add_event(self, kind: str, data_json: str, *, now_ms: int) -> int:
        with self._write() as connection:
            event = {"at_ms": now_ms, "type": kind, "data_json": data_json}
            added = insert(t.events).values(**event).returning(t.events.c.id)
            number: int = connection.execute(added).scalar_one()
            connection.execute(delete(t.events).where(t.events.c.id <= number - MAX_EVENTS))
            return number

    def events_after(self, event_id: int, limit: int = 100) -> tuple[EventRow, ...]:
        c = t.events.c
        query = select(t.events).where(c.id > event_id).order_by(c.id).limit(limit)
        with self._read() as connection:
            return tuple(to_row(EventRow, row) for row in connection.execute(query))

    def newest_event_id(self) -> int:
        with self._read() as connection:
            newest: int | None = connection.execute(select(func.max(t.events.c.id))).scalar()
            return newest or 0


def _categories(connection: Connection, cycle: int) -> tuple[CategoryCount, ...]:
    c = t.dataset_categories.c
    query = select(t.dataset_categories).where(c.cycle == cycle).order_by(c.category)
    return tuple(to_row(CategoryCount, row) for row in connection.execute(query))


def _rejected(connection: Connection, cycle: int) -> tuple[tuple[str, int], ...]:
    c = t.dataset_rejections.c
    query = select(c.reason, c.examples).where(c.cycle == cycle).order_by(c.reason)
    return tuple((row.reason, row.examples) for row in connection.execute(query))

"""What is done to the tables of lessons within one transaction, and how rows are selected."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from cascade.errors import InputError
from cascade.ledger.verdicts import MOST_SAID, Feedback
from cascade.teaching.lessons import Lesson, LessonSelection, tenant_in, user_in
from cascade.teaching.rows import feedback_of, feedback_row, group_of, group_row, lesson_row
from cascade.teaching.schema import deleted, groups, lessons, state, terms, verdicts
from cascade.teaching.store import KeptGroup
from cascade.teaching.terms import Terms

SOME = 500
"""Databases limit the parameters of a statement."""

OF_LESSONS = ("cascade", "task", "origin")
"""Conditions that only a lesson can fulfil."""


def put(connection: Connection, lesson: Lesson) -> bool:
    """Insert a lesson, unless its run has one, or had one that was deleted."""
    for table in (lessons, deleted):
        if connection.execute(
            select(table.c.run_id).where(table.c.run_id == lesson.run_id)
        ).first():
            return False
    connection.execute(insert(lessons), lesson_row(lesson))
    changed(connection)
    return True


def judge(connection: Connection, feedback: Feedback, tags: Mapping[str, str] | None) -> bool:
    """Insert or replace a verdict, unless it says nothing new, or its run was deleted."""
    run_id = feedback.run_id
    if connection.execute(select(deleted.c.run_id).where(deleted.c.run_id == run_id)).first():
        return False
    same = and_(
        verdicts.c.run_id == run_id,
        verdicts.c.key == feedback.key,
        verdicts.c.by == feedback.by,
    )
    found = connection.execute(select(verdicts).where(same)).mappings().first()
    if found is not None:
        earlier = feedback_of(dict(found))
        if feedback.at < earlier.at or feedback.same_as(earlier):
            return False
    elif _said(connection, run_id) >= MOST_SAID:
        raise InputError(f"feedback: run {run_id!r} has been judged {MOST_SAID} times.")
    row = feedback_row(feedback, *_whose(connection, run_id, tags))
    if found is None:
        connection.execute(insert(verdicts), row)
    else:
        connection.execute(update(verdicts).where(same).values(row))
    changed(connection)
    return True


def _said(connection: Connection, run_id: str) -> int:
    about = select(func.count()).select_from(verdicts).where(verdicts.c.run_id == run_id)
    return connection.execute(about).scalar_one()


def _whose(
    connection: Connection, run_id: str, tags: Mapping[str, str] | None
) -> tuple[str | None, str | None, Mapping[str, str]]:
    """User, tenant and tags of a run."""
    lesson = connection.execute(select(lessons).where(lessons.c.run_id == run_id)).mappings()
    found = lesson.first()
    if found is not None:
        return found["user_name"], found["tenant"], found["tags"] or {}
    tags = tags or {}
    return user_in(tags), tenant_in(tags), tags


def state_terms(connection: Connection, model: str, stated: Terms) -> None:
    """State the terms of a model, in place of earlier ones."""
    connection.execute(delete(terms).where(terms.c.model == model))
    connection.execute(insert(terms), {"model": model, "stated": stated.model_dump_json()})
    changed(connection)


def keep_group(connection: Connection, settings: str, group: KeptGroup) -> None:
    """Keep a group in place of what was kept of it, without what was deleted by now."""
    ids = [group.leader, *group.pairs, *group.score]
    gone: set[str] = set()
    for start in range(0, len(ids), SOME):
        some = deleted.c.run_id.in_(ids[start : start + SOME])
        gone.update(connection.execute(select(deleted.c.run_id).where(some)).scalars())
    same = and_(groups.c.settings == settings, groups.c.leader == group.leader)
    connection.execute(delete(groups).where(same))
    if group.leader not in gone:
        connection.execute(insert(groups), group_row(settings, group.without(gone)))


def forget_in_groups(connection: Connection, run_ids: Collection[str]) -> None:
    """Take runs out of the groups, and those groups away whose leaders they are."""
    for row in connection.execute(select(groups)).mappings().all():
        group, settings = group_of(dict(row)), row["settings"]
        less = group.without(run_ids)
        if group.leader in run_ids or less != group:
            same = and_(groups.c.settings == settings, groups.c.leader == group.leader)
            connection.execute(delete(groups).where(same))
            if group.leader not in run_ids:
                connection.execute(insert(groups), group_row(settings, less))


def changed(connection: Connection) -> None:
    """Count a change."""
    connection.execute(update(state).values(value=state.c.value + 1))


def page(selection: LessonSelection, after: tuple[datetime, str] | None, limit: int) -> Select[Any]:
    """The first lessons after this place."""
    at, key = lessons.c.at, lessons.c.id
    statement = select(lessons).where(*where(lessons, selection))
    if after is not None:
        place = tuple_(literal(after[0], at.type), literal(after[1], key.type))
        statement = statement.where(tuple_(at, key) > place)
    return statement.order_by(at, key).limit(limit)


def where(table: Table, selection: LessonSelection) -> Iterator[ColumnElement[bool]]:
    """The conditions of a selection, on lessons or on verdicts."""
    if selection.run_id is not None:
        yield table.c.run_id == selection.run_id
    if selection.user is not None:
        yield table.c.user_name == selection.user
    if selection.tenant is not None:
        yield table.c.tenant == selection.tenant
    of_lesson = [
        lessons.c[name] == getattr(selection, name)
        for name in OF_LESSONS
        if getattr(selection, name) is not None
    ]
    if table is lessons:
        yield from of_lesson
    elif of_lesson:
        yield table.c.run_id.in_(select(lessons.c.run_id).where(*of_lesson))
    if selection.since is not None:
        yield table.c.at >= selection.since
    if selection.until is not None:
        yield table.c.at < selection.until
    for name, value in selection.tags.items():
        yield table.c.tags[name].as_string() == value

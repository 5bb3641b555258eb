"""What several people say of an image: one vote each, in whatever order their answers come."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tod.people.answers import Answer


class Vote(NamedTuple):
    """What one person says of an image.

    Attributes:
        voter: the annotator, or the file's name where it names none.
        class_name: None: the person has skipped the image.
        answer: tells this answer from another one of the same voter.
        at: when it was given, in ISO 8601; empty where nobody knows.
    """

    voter: str
    class_name: str | None
    answer: str = ""
    at: str = ""


def one_answer_each(files: Sequence[Sequence[Answer]]) -> list[Answer]:
    """The answers of several files; of each annotator, the newest about each image.

    An annotator has one identity in all files that share an annotation: they are exports of one
    project. Elsewhere the same number may be somebody else's, on another server. An answer without
    an annotator is a person's own, and what a run has counted stays as it is.
    """
    projects = _projects(files)
    newest: dict[tuple, Answer] = {}
    for number, answers in enumerate(files):
        for position, answer in enumerate(answers):
            key: tuple = (number, position)
            person = answer.annotator or answer.annotation
            if person and not answer.may_be_gone:
                project = next((i for i, p in enumerate(projects) if answer.annotation in p), None)
                key = (person, project, answer.sha256 or answer.file)
            newest[key] = max(newest.get(key, answer), answer, key=_age)
    return [*newest.values()]


def _projects(files: Sequence[Sequence[Answer]]) -> list[set[str]]:
    """The annotations of each project: files that share one are of the same."""
    projects: list[set[str]] = []
    for answers in files:
        annotations = {answer.annotation for answer in answers if answer.annotation}
        alike = [project for project in projects if project & annotations]
        others = [project for project in projects if project not in alike]
        projects = [*others, annotations.union(*alike)]
    return projects


def _age(answer: Answer) -> tuple[str, str, str]:
    return answer.updated_at, answer.annotation, answer.class_name or ""


def votes_of(answers: Iterable[Answer]) -> list[Vote]:
    """The votes of answers about one image."""
    return [
        Vote(a.annotator or a.source, a.class_name, a.annotation or a.content, a.updated_at)
        for a in answers
    ]


def added(before: Sequence[Vote], now: Sequence[Vote]) -> tuple[Vote, ...]:
    """The votes before, and those that come now: who votes again replaces the own vote.

    Of what a voter has said at known times, the newest counts. Where several share a name, as two
    rows of a file do, fewer answers than before replace as many.
    """
    found: list[Vote] = []
    for voter in dict.fromkeys(vote.voter for vote in (*before, *now)):
        old, new = ([v for v in votes if v.voter == voter] for votes in (before, now))
        if old and new and all(vote.at for vote in (*old, *new)):
            newest = max(vote.at for vote in (*old, *new))
            found += dict.fromkeys(vote for vote in (*old, *new) if vote.at == newest)
            continue
        skips = dict.fromkeys(vote for vote in (*old, *new) if vote.class_name is None)
        old, new = ([v for v in votes if v.class_name is not None] for votes in (old, new))
        if len(new) < len(old):
            changed = [vote for vote in new if vote.class_name not in {v.class_name for v in old}]
            new = [*old[len(changed) :], *changed]
        found += [*new, *skips]
    return tuple(found)


def majority(votes: Sequence[Vote]) -> str | None:
    """The class that more than half of those who name one give; None where there is none."""
    named = Counter(vote.class_name for vote in votes if vote.class_name is not None)
    return next((name for name, count in named.items() if 2 * count > named.total()), None)


def are_skips(votes: Sequence[Vote]) -> bool:
    """Whether as many people have skipped the image as have named a class without agreeing."""
    named = [vote.voter for vote in votes if vote.class_name is not None]
    skipping = {vote.voter for vote in votes} - {*named}
    return len(skipping) >= len(named)


def as_cells(votes: Sequence[Vote]) -> list[str]:
    """The cells `votes`, `source` and `answers` of a table; the first two are for people."""
    voters = ", ".join(dict.fromkeys(vote.voter for vote in votes))
    return [counts(votes), voters, json.dumps(votes, ensure_ascii=False)]


def votes_in(row: Mapping[str, str]) -> tuple[Vote, ...]:
    """The votes of a table's row; of a label that is one person's, none.

    An earlier version has no `answers`: there, nobody knows who has given which.

    Raises:
        ValueError: the row is damaged.
    """
    if row["answers"] or "votes" not in row:
        return tuple(Vote(*vote) for vote in json.loads(row["answers"] or "[]"))
    named = re.findall(r"(.+?) \((\d+)\)(?:, |$)", row["votes"], re.DOTALL) or [(None, 1)]
    return tuple(Vote(row["source"], name) for name, count in named for _ in range(int(count)))


def counts(votes: Sequence[Vote]) -> str:
    """The classes that were named, in order, with their votes: `cat (1), dog (2)`."""
    named = Counter(vote.class_name for vote in votes if vote.class_name is not None)
    if len(named) == 1:
        return next(iter(named))
    return ", ".join(f"{name} ({named[name]})" for name in sorted(named))

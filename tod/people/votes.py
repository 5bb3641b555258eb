"""Votes: one for each person about an image, whatever the order of their answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tod.people.answers import Answer


class Vote(NamedTuple):
    """What one person says of an image."""

    voter: str  # the annotator, or the file's name if it names none
    class_name: str | None  # None: the person has skipped it
    answer: str = ""  # distinguishes several answers of one voter
    at: str = ""  # when it was given, in ISO 8601; empty if unknown


def one_answer_each(files: Sequence[Sequence[Answer]], digests: Mapping[str, str]) -> list[Answer]:
    """The answers of several files, with only the newest of each annotator about each image.

    Of answers that are equally old, as all are without times, those that differ stay, so that the
    image is asked for again. Files that share an annotation are exports of one project, where an
    annotator's number is one person; on another server it may be someone else's. A file without
    annotators is a person's. The votes in a run's own files are kept as they are. `digests` are
    those of the images, by name.
    """
    projects = _projects(files)
    newest: dict[tuple, list[Answer]] = {}
    for number, answers in enumerate(files):
        for position, answer in enumerate(answers):
            image = answer.sha256 or digests.get(answer.file, answer.file)
            person = answer.annotator or answer.annotation
            key: tuple = (number, image)
            if answer.may_be_gone:
                key = (number, position)
            elif person:
                project = next((i for i, p in enumerate(projects) if answer.annotation in p), None)
                key = (person, project, image)
            there = newest.setdefault(key, [])
            if there and _age(answer) > _age(there[0]):
                there.clear()
            is_new = answer.class_name not in {each.class_name for each in there}
            if not there or (is_new and _age(answer) == _age(there[0])):
                there.append(answer)
    return [answer for answers in newest.values() for answer in answers]


def _projects(files: Sequence[Sequence[Answer]]) -> list[set[str]]:
    """The annotations of each project; files that share one belong to the same project."""
    projects: list[set[str]] = []
    for answers in files:
        annotations = {answer.annotation for answer in answers if answer.annotation}
        alike = [project for project in projects if project & annotations]
        projects = [project for project in projects if project not in alike]
        projects.append(annotations.union(*alike))
    return projects


def _age(answer: Answer) -> tuple[str, str]:
    return answer.updated_at, answer.annotation


def votes_of(answers: Iterable[Answer]) -> tuple[Vote, ...]:
    """The votes of answers about one image."""
    return tuple(
        Vote(a.annotator or a.source, a.class_name, a.annotation or a.content, a.updated_at)
        for a in answers
    )


def added(before: Sequence[Vote], now: Sequence[Vote]) -> tuple[Vote, ...]:
    """Adds new votes to earlier ones; a new vote replaces earlier ones of the same voter.

    If all times are known, a voter's newest vote counts. If several votes share a voter, as two
    rows of one file do, fewer new votes replace only as many earlier ones.
    """
    found: list[Vote] = []
    for voter in dict.fromkeys(vote.voter for vote in (*before, *now)):
        old, new = ([v for v in votes if v.voter == voter] for votes in (before, now))
        both = dict.fromkeys([*old, *new])
        if old and new and all(vote.at for vote in both):
            if later := since(old, new):
                newest = max(vote.at for vote in later)
                old = [vote for vote in later if vote.at == newest]
            found += old
            continue
        skips = [vote for vote in both if vote.class_name is None]
        old, new = _named(old), _named(new)
        if len(new) < len(old):
            changed = [vote for vote in new if vote.class_name not in {v.class_name for v in old}]
            new = [*old[len(changed) :], *changed]
        found += [*new, *skips]
    return tuple(found)


def since(before: Sequence[Vote], now: Sequence[Vote]) -> tuple[Vote, ...]:
    """Those of the votes that were given after the earlier ones.

    If the times are known, a vote is later than all of its voter's; else it differs from them, as
    one does in a file with other content.
    """

    def is_new(vote: Vote) -> bool:
        own = [each for each in before if each.voter == vote.voter]
        if own and vote.at and all(each.at for each in own):
            return vote.at > max(each.at for each in own)
        return vote not in own

    return tuple(filter(is_new, now))


def _named(votes: Iterable[Vote]) -> list[Vote]:
    return [vote for vote in votes if vote.class_name is not None]


def majority(votes: Sequence[Vote]) -> str | None:
    """The class with more than half of the votes that name one; None if there is none."""
    named = Counter(vote.class_name for vote in _named(votes))
    return next((name for name, count in named.items() if 2 * count > named.total()), None)


def are_skips(votes: Sequence[Vote]) -> bool:
    """Whether at least as many people have skipped the image as have named a class."""
    named = [vote.voter for vote in _named(votes)]
    skipping = {vote.voter for vote in votes} - {*named}
    return len(skipping) >= len(named)


def counts(votes: Sequence[Vote]) -> str:
    """The named classes in order, with their votes: `cat (1), dog (2)`."""
    named = Counter(vote.class_name for vote in _named(votes))
    if len(named) == 1:
        return next(iter(named))
    return ", ".join(f"{name} ({named[name]})" for name in sorted(named))

"""From people's answers to labels; the majority of several answers counts."""

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from tod.config.settings import counted, shortened
from tod.data.listing import NAMED, class_name_of
from tod.data.own_images import Found
from tod.people.answers import Answer, name_finder, not_utf8
from tod.people.labels import DISAGREEMENTS, LABELS, SET_ASIDE, Label, Said
from tod.people.requests import AUDIT, CHECK, Request
from tod.people.votes import (
    Vote,
    added,
    are_skips,
    counts,
    majority,
    one_answer_each,
    since,
    votes_of,
)

log = logging.getLogger("tod")

Requests = Mapping[str, Request]  # the last one for each image, by its digest
NOT_ASKED, NOT_SAID = Request("", "", "", ""), Label("", "", "", "")


def with_answers(
    said: Said,
    by_image: Iterable[tuple[str, Sequence[Answer]]],
    found: Found,
    requests: Requests,
    relabel: bool,
    problems: list[str],
    keeps_votes: bool = False,
) -> dict[str, Label]:
    """The labels updated by the answers about each image, by its digest.

    Answers that contradict a label are added to `problems`, unless they may `relabel` or answer a
    check. For checks, `keeps_votes`: also a label of a single vote keeps it, so that the same
    answer is known again.
    """
    said = dict(said)
    for digest, answers in by_image:
        before, request = said.get(digest, NOT_SAID), requests.get(digest, NOT_ASKED)
        first, batch, votes = answers[0], request.batch, votes_of(answers)
        file = found.files.get(digest) or first.file
        # An audit of any run is never trained on.
        reasons = request.reason, before.reason, *(answer.reason for answer in answers)
        reason = AUDIT if AUDIT in reasons else request.reason
        is_checked = request.reason == CHECK and before.class_name and before.batch != batch
        answer = since(before.votes, votes) if is_checked else ()
        contradicts = {vote.class_name for vote in answer} - {None, before.class_name}
        if answer and not (relabel and contradicts):
            label = _checked(before, answer)._replace(batch=batch, reason=reason)
            _put(said, digest, label)
            continue
        earlier = before.votes if len(before.votes) > 1 or not before.class_name else ()
        if digest in said and not relabel:
            if not since(earlier, votes):
                continue  # the same answers again
            votes = added(earlier, votes)
        class_name = majority(votes)
        if before.class_name:
            if class_name == before.class_name or not counts(votes):
                continue  # a skip takes no label away
            in_folder = found.labels.get(digest)
            if not relabel or in_folder not in (None, class_name):
                but = f"{shortened(before.class_name)} by {before.source} before; --relabel takes "
                but += "the new (of the files of all who have answered, the majority)"
                named = {vote.class_name for vote in votes}
                if in_folder is not None and (relabel or in_folder not in named):
                    but = f"lies in {shortened(in_folder)}'s folder; move it, or leave the line out"
                words = f"{shortened(file)} is {shortened(counts(votes))} here, but {but}"
                problems.append(f"{first.place}: {words}")
                continue
            if not is_checked:
                batch = before.batch
        if class_name:
            source = next((a.source for a in answers if a.class_name == class_name), first.source)
            several = votes if len(votes) > 1 or keeps_votes else ()
            label = Label(file, class_name, batch, source, reason, several, LABELS)
        else:
            table = SET_ASIDE if are_skips(votes) else DISAGREEMENTS
            label = Label(file, "", batch, _voters(votes), reason, votes, table)
        _put(said, digest, label)
    return said


def _checked(label: Label, answer: tuple[Vote, ...]) -> Label:
    """A label after the answer to its check: it stays, or there is a disagreement.

    In a disagreement the answer is a vote of its own, even of somebody who has voted before. A skip
    names no other class.
    """
    before = label.votes or (Vote(label.source, label.class_name),)
    answer = tuple(vote for vote in answer if vote.class_name)
    if {vote.class_name for vote in answer} <= {label.class_name}:
        return label._replace(votes=added(before, answer))
    votes = (*before, *answer)
    return label._replace(class_name="", source=_voters(votes), votes=votes, table=DISAGREEMENTS)


def _voters(votes: Iterable[Vote]) -> str:
    return ", ".join(dict.fromkeys(vote.voter for vote in votes))


def _put(said: dict[str, Label], digest: str, label: Label) -> None:
    if digest in said and label.table != said[digest].table:
        del said[digest]  # so that it comes last in its new table
    said[digest] = label


def answers_by_image(
    files: Sequence[Sequence[Answer]],
    said: Said,
    found: Found,
    requests: Requests,
    problems: list[str],
) -> dict[str, list[Answer]]:
    """The answers in several files about each image, by its digest, with the run's class names.

    Answers about no image, or with no class, are added to `problems`.
    """
    by_image: dict[str, list[Answer]] = {}
    by_file = {request.file: digest for digest, request in requests.items()}
    digests = {**by_file, **found.digests}
    find = name_finder(digests)
    named = [[answer._replace(file=find(answer.file)) for answer in answers] for answers in files]
    class_names = {*found.class_names}
    gone, padded = 0, []
    for answer in one_answer_each(named, digests):
        try:
            digest = _digest(answer, said, found, requests, by_file)
        except ValueError as error:
            if answer.may_be_gone and answer.sha256 and answer.file not in found.digests:
                gone += 1
            else:
                problems.append(f"{answer.place}: {error}")
            continue
        # Messages take time, and only a few are shown.
        is_shown = len(problems) < NAMED
        try:
            name = answer.class_name and _known_class(answer.class_name, class_names, is_shown)
        except ValueError as error:
            problems.append(f"{answer.place}: {error}")
            continue
        if name is not None and name != class_name_of(answer.class_name):
            padded.append(answer)
        by_image.setdefault(digest, []).append(answer._replace(class_name=name))
    if padded:
        words = f"{padded[0].class_name!r} is taken without the blanks around it"
        log.warning(f"{padded[0].place}: {words} ({len(padded)} such in all)")
    if gone:
        log.info(f"{counted(gone, 'label')} left out: their images are gone")
    return by_image


def _digest(
    answer: Answer, said: Said, found: Found, requests: Requests, by_file: Mapping[str, str]
) -> str:
    """The digest of the image of an answer; ValueError says why there is none."""
    file = answer.file
    today = found.digests.get(file, "")
    then = by_file.get(file) or today
    if not answer.sha256 and today and then != today:
        raise ValueError(
            f"{shortened(file, 300)} has changed since it was asked for; bring the old image "
            "back, or name the image by its sha256"
        )
    if today and not answer.may_be_gone and answer.sha256 in found.files.keys() - {today}:
        name = shortened(found.files[answer.sha256], 300)
        raise ValueError(
            f"{shortened(file, 300)} is one image, and its sha256 is {name}'s; leave out the "
            "column that is wrong"
        )
    digest = answer.sha256 or then
    if digest in found.files or digest in said:
        return digest
    name = file or requests.get(digest, NOT_ASKED).file
    if found.digests.get(name) in found.files:
        raise ValueError(f"{shortened(name, 300)} has changed since; bring the old image back")
    if digest in requests:
        return digest
    words = not_utf8(name) or "names are relative to it, or to unlabeled"
    raise ValueError(f"{shortened(name or digest, 300)} is no image of {found.root}: {words}")


def _known_class(name: str, class_names: Collection[str], is_shown: bool) -> str:
    """The class of this name; ValueError offers the nearest one, if the message is shown."""
    for wanted in (class_name_of(name), class_name_of(name.strip())):
        if wanted in class_names:
            return wanted
    near = ""
    if is_shown:
        folded = {known.casefold(): known for known in class_names}
        near = folded[difflib.get_close_matches(wanted[:100].casefold(), folded, 1, 0.0)[0]]
    raise ValueError(f"{shortened(wanted)} is no class; the nearest is {shortened(near)}")

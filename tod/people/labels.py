"""All that people have said of a run's images: taken whole or not at all."""

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from tod.config.settings import counted, shortened
from tod.data.listing import NAMED, class_name_of
from tod.data.own_images import Found
from tod.people.answers import Answer, name_finder, not_utf8
from tod.people.votes import Vote, added, are_skips, counts, majority, votes_of

log = logging.getLogger("tod")

FIRST, QUERY, AUDIT = "first", "query", "audit"
"""Why an image is asked for: drawn before there is a network, by its score, to be audited."""


class Label(NamedTuple):
    """What an image shows; named as the columns of `labels.csv`.

    Attributes:
        file: its name when the label was taken.
        class_name: what people say.
        batch: the number of the batch that asked for it; empty where none did.
        source: the name of the file that says so, or `train`.
        reason: why the batch asked for it; `audit` also where another run has.
        votes: of several people, among whom the majority has decided; else none.
    """

    file: str
    class_name: str
    batch: str
    source: str
    reason: str = ""
    votes: tuple[Vote, ...] = ()


class Unlabeled(NamedTuple):
    """An image that people have seen and not given a class.

    Attributes:
        file: its name.
        batch: the number of the last batch that asked for it and has got an answer, if any did.
        votes: of each who has seen it.
        reason: why it was asked for.
    """

    file: str
    batch: str
    votes: tuple[Vote, ...]
    reason: str = ""


class Asked(NamedTuple):
    """An image that a batch has asked for: its name then, the number of the last such batch, and
    why.
    """

    file: str
    batch: int
    reason: str = ""


Row = TypeVar("Row", Label, Unlabeled)


@dataclass(frozen=True)
class Labels:
    """What people have said of a run's images, by their digests, in the order taken.

    Attributes:
        labels: where they agree.
        set_aside: images that they could not label: never asked again, never trained on.
        disagreements: images of which they say different things: asked again in the next batch.
    """

    labels: dict[str, Label] = field(default_factory=dict)
    set_aside: dict[str, Unlabeled] = field(default_factory=dict)
    disagreements: dict[str, Unlabeled] = field(default_factory=dict)

    def has_answer(self, digest: str, batch: int) -> bool:
        """Whether people have said of an image what they can, when the batch asked for it."""
        tie = self.disagreements.get(digest)
        return (
            digest in self.labels
            or digest in self.set_aside
            or (tie is not None and tie.batch == str(batch))
        )

    def says_the_same(self, other: "Labels", digest: str) -> bool:
        """Whether both have the same of an image."""
        return all(rows.get(digest) == vars(other)[name].get(digest) for name, rows in self)

    def __iter__(self) -> Iterator[tuple[str, dict]]:
        """The name and the rows of each table."""
        return iter(vars(self).items())

    def with_answers(
        self,
        by_image: Mapping[str, Sequence[Answer]],
        found: Found,
        asked: Mapping[str, Asked],
        relabel: bool,
        problems: list[str],
    ) -> "Labels":
        """These labels and the answers; where several are about one image, the majority counts.

        Args:
            by_image: the answers about each image, by its digest.
            found: the images that there are.
            asked: the images that batches have asked for, by their digests.
            relabel: whether they may change what was taken before.
            problems: takes all that is wrong.
        """
        taken = replace(self, **{name: dict(rows) for name, rows in self})
        for digest, answers in by_image.items():
            first = answers[0]
            file = found.files.get(digest) or first.file
            request = asked.get(digest, Asked(file, -1))
            batch = str(request.batch) if digest in asked else ""
            old = self.labels.get(digest)
            before = old or self._undecided(digest)
            reasons = {request.reason, *(answer.reason for answer in answers)}
            votes = votes_of(answers)
            if before is not None and not relabel:
                if {*votes} <= {*before.votes}:
                    continue  # the same answers again, whatever has been asked since
                votes = added(before.votes, votes)
            said = majority(votes)
            if before is not None:
                reasons.add(before.reason)
            if old is not None:
                if said == old.class_name or not counts(votes):
                    continue  # a skip takes no label away
                in_folder = found.labels.get(digest)
                if in_folder not in (None, said) or not relabel:
                    problems.append(_contradiction(first, file, votes, old, in_folder, relabel))
                    continue
                batch = old.batch
            # What is to measure the accuracy is never trained on, whoever has asked for it.
            why = AUDIT if AUDIT in reasons else request.reason
            several = tuple(votes) if len(votes) > 1 else ()
            if said is not None:
                source = next((a.source for a in answers if a.class_name == said), first.source)
                taken._put("labels", digest, Label(file, said, batch, source, why, several))
            else:
                table = "set_aside" if are_skips(votes) else "disagreements"
                taken._put(table, digest, Unlabeled(file, batch, tuple(votes), why))
        return taken

    def _undecided(self, digest: str) -> Unlabeled | None:
        return self.disagreements.get(digest) or self.set_aside.get(digest)

    def _put(self, table: str, digest: str, row: Row) -> None:
        for name, rows in self:
            if name == table:
                rows[digest] = row
            else:
                rows.pop(digest, None)

    def decided(self) -> "Labels":
        """Each image in one table: a kill between two of their files has left it in both."""
        undecided = {d: row for d, row in self.disagreements.items() if d not in self.labels}
        known = self.labels.keys() | undecided
        aside = {d: row for d, row in self.set_aside.items() if d not in known}
        return Labels(self.labels, aside, undecided)

    def by_image(
        self,
        answers: Iterable[Answer],
        found: Found,
        asked: Mapping[str, Asked],
        problems: list[str],
    ) -> dict[str, list[Answer]]:
        """The answers about each image, by its digest, with classes as the run has them."""
        by_image: dict[str, list[Answer]] = {}
        by_file = {image.file: digest for digest, image in asked.items()}
        find = name_finder({**by_file, **found.digests})
        class_names = dict.fromkeys(found.class_names)
        gone, padded = 0, []
        for given in answers:
            answer = given._replace(file=find(given.file))
            try:
                digest = self._digest(answer, found, asked, by_file)
                name = answer.class_name and _known_class(answer.class_name, class_names)
            except ValueError as error:
                if answer.may_be_gone and answer.sha256 and answer.file not in found.digests:
                    gone += 1
                else:
                    # To say it takes time, and few are shown.
                    is_shown = len(problems) < NAMED
                    problems.append(f"{answer.place}: {error}" if is_shown else answer.place)
            else:
                if name is not None and name != class_name_of(given.class_name):
                    padded.append(given)
                by_image.setdefault(digest, []).append(answer._replace(class_name=name))
        if padded:
            words = f"{padded[0].class_name!r} is taken without the blanks around it"
            log.warning(f"{padded[0].place}: {words} ({len(padded)} such in all)")
        if gone:
            log.info(f"{counted(gone, 'label')} left out: their images are gone")
        return by_image

    def _digest(
        self,
        answer: Answer,
        found: Found,
        asked: Mapping[str, Asked],
        by_file: Mapping[str, str],
    ) -> str:
        """Which image an answer is about.

        Raises:
            ValueError: there is no such image, or it has changed since it was asked for.
        """
        file = answer.file
        today = found.digests.get(file, "")
        then = by_file.get(file) or today
        if not answer.sha256 and today and then != today:
            raise ValueError(
                f"{shortened(file, 300)} has changed since it was asked for; bring the old image "
                "back, or name the image by its sha256"
            )
        digest = answer.sha256 or then
        if digest in found.files or digest in self.labels or self._undecided(digest):
            return digest
        name = file or (asked[digest].file if digest in asked else "")
        if name in found.digests and found.digests[name] in found.files:
            raise ValueError(f"{shortened(name, 300)} has changed since; bring the old image back")
        if digest in asked:
            return digest
        words = not_utf8(name) or "names are relative to it, or to unlabeled"
        raise ValueError(f"{shortened(name or digest, 300)} is no image of {found.root}: {words}")


class _UnknownClassError(ValueError):
    """A name is no class. The nearest one is searched for when the message is asked for."""

    def __str__(self) -> str:
        name, class_names = self.args
        (near,) = difflib.get_close_matches(name.strip()[:100], class_names, n=1, cutoff=0.0)
        return f"{shortened(name)} is no class; the nearest is {shortened(near)}"


def _known_class(name: str, class_names: Mapping[str, None]) -> str:
    """The class of this name.

    Raises:
        ValueError: there is none.
    """
    for wanted in (class_name_of(name), class_name_of(name.strip())):
        if wanted in class_names:
            return wanted
    raise _UnknownClassError(wanted, class_names)


def _contradiction(
    first: Answer,
    file: str,
    votes: Sequence[Vote],
    old: Label,
    in_folder: str | None,
    relabel: bool,
) -> str:
    """What to say of answers that are not what was taken before."""
    words = f"{first.place}: {shortened(file)} is {shortened(counts(votes))} here, but"
    named = {vote.class_name for vote in votes}
    if in_folder is not None and (relabel or in_folder not in named):
        return f"{words} lies in {shortened(in_folder)}'s folder; move it, or leave the line out"
    return (
        f"{words} {shortened(old.class_name)} by {old.source} before; --relabel takes the new (of "
        "the files of all who have answered, the majority)"
    )

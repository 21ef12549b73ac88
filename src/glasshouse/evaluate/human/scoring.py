"""What came back from people: how often they were right, against guessing, with the errors that few answers leave."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist, stdev
from typing import Any, NamedTuple

from glasshouse.core import BadInput, Noun
from glasshouse.evaluate.human.drafting import CHANCE, OPTIONS, Kind
from glasshouse.evaluate.human.studies import AnswerKey

COLUMNS = ("study", "participant", "trial", "answer", "confidence")
LEVEL = 0.95
NORMAL = NormalDist()


class Reply(NamedTuple):
    """One answer of one person. `confidence` is 1…4, or None where it was not given."""

    participant: str
    trial: str
    answer: str
    confidence: int | None


@dataclass(frozen=True, repr=False)
class Participant(Noun):
    """One person's answers.

    Args:
        n_missing: trials that were left open.
        interval: of `accuracy`, exact, 95 %.
        d_prime: of bias forms; else not-a-number.
    """

    name: str
    n_answered: int
    n_right: int
    n_missing: int
    interval: tuple[float, float]
    d_prime: float
    d_prime_stderr: float

    @property
    def accuracy(self) -> float:
        """Share of answers that are right."""
        return self.n_right / self.n_answered if self.n_answered else math.nan

    def __repr__(self) -> str:
        return f"Participant({self.name}: {self.n_right} of {self.n_answered} right)"


@dataclass(frozen=True, repr=False)
class HumanScore(Noun):
    """How well people did.

    Args:
        accuracy: share of all answers given that are right; not-a-number without answers.
        interval: of `accuracy`, exact (Clopper and Pearson, 1934), 95 %, as if all answers were independent.
        chance: what guessing gives.
        p_value: probability of as many right answers or more by guessing.
        stderr: standard error of the mean over participants; not-a-number for fewer than two.
        n_missing: trials left open, over all participants.
        confidence_right: agreement: mean rating, 1…4, of predictions that are right. Else the mean confidence of
            answers that are right.
        confidence_wrong: the same for wrong ones.
        d_prime: of bias forms: how far apart biased and clean models lie for people, in standard deviations.
        criterion: of bias forms: above 0 where people say "clean" too often.
        participants: one row per person.
        trials: share of right answers to each trial that anybody answered.
    """

    kind: Kind
    study: str
    n_participants: int
    n_answered: int
    n_missing: int
    accuracy: float
    interval: tuple[float, float]
    chance: float
    p_value: float
    stderr: float
    confidence_right: float
    confidence_wrong: float
    d_prime: float
    d_prime_stderr: float
    criterion: float
    participants: tuple[Participant, ...]
    trials: dict[str, float]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        low, high = self.interval
        sense = "" if math.isnan(self.d_prime) else f", d' {self.d_prime:.2f} ± {self.d_prime_stderr:.2f}"
        missing = f", {self.n_missing} missing" if self.n_missing else ""
        people = f"{self.n_participants} participant{'s' * (self.n_participants != 1)}"
        return (
            f"HumanScore({self.kind}: {100 * self.accuracy:.0f} % right [{100 * low:.0f}, {100 * high:.0f}], chance "
            f"{100 * self.chance:.0f} %{sense}, {people}, {self.n_answered} answers{missing})"
        )


def score_study(
    key: AnswerKey | str | os.PathLike[str],
    csv_files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> HumanScore:
    """How often people were right, against guessing, from the files that the form gave them to save.

    Of agreement forms, 3 and 4 count as "right" and 1 and 2 as "wrong"; the mean rating of right and of wrong
    predictions tells trust from insight (Kim et al., "HIVE", ECCV 2022). Of bias forms,

        d' = z(H) - z(F),   H = (hits + 1/2) / (n_biased + 1),   F = (false alarms + 1/2) / (n_clean + 1)
        var d' = H (1 - H) / (n_biased φ(z(H))²) + F (1 - F) / (n_clean φ(z(F))²)

    Gourevitch and Galanter, Psychometrika 1967; the halves are Hautus, 1995, and keep d' finite. The interval takes all
    answers as independent, but those of one person are not: with several, look at `stderr` and at `participants` too.

    Args:
        key: the key, or the JSON file that it was written to.
        csv_files: one or more; what is missing in them is counted. The same answer in two files counts once, and one
            file fills what another left open. Commas, semicolons or tabs stand between columns, in any order.
    """
    key = key if isinstance(key, AnswerKey) else AnswerKey.read(key)
    paths = [csv_files] if isinstance(csv_files, str | os.PathLike) else list(csv_files)
    if not paths:
        raise BadInput("no files with answers.", "Pass the CSV files that participants saved.")
    known, people = dict[tuple[str, str], Reply](), dict[str, None]()
    for path in paths:
        for reply in read_answers(Path(path), key):
            people[reply.participant] = None
            place = reply.participant, reply.trial
            known[place] = agreed(known[place], reply, path) if place in known else reply
    replies = [reply for reply in known.values() if reply.answer]
    return summary(key, replies, list(people))


def agreed(before: Reply, reply: Reply, path: str | os.PathLike[str]) -> Reply:
    """Both of two rows about one trial, if neither contradicts the other: what one left open the other fills."""
    for what in ("answer", "confidence"):
        first, second = getattr(before, what), getattr(reply, what)
        if first and second and first != second:
            raise BadInput(
                f"'{path}' has another {what} of '{reply.participant}' to {reply.trial} than before: {second} and "
                f"{first}.",
                "Keep one file per participant, and one name each.",
            )
    return before._replace(answer=before.answer or reply.answer, confidence=before.confidence or reply.confidence)


def summary(key: AnswerKey, replies: Sequence[Reply], people: Sequence[str]) -> HumanScore:
    """The score of valid answers, each of which is there once."""
    right = [is_right(key, reply) for reply in replies]
    n, k, chance = len(replies), sum(right), CHANCE[key.kind]
    rows = tuple(person(key, name, [reply for reply in replies if reply.participant == name]) for name in people)
    means = [row.accuracy for row in rows if row.n_answered]
    trials = {
        trial: mean([good for good, reply in zip(right, replies, strict=True) if reply.trial == trial])
        for trial in key.answers
        if any(reply.trial == trial for reply in replies)
    }
    sides: dict[bool, list[float]] = {True: [], False: []}
    for good, reply in zip(right, replies, strict=True):
        if reply.confidence is not None:
            sides[key.answers[reply.trial] == "right" if key.kind == "agreement" else good].append(reply.confidence)
    sense = detection(key, replies)
    return HumanScore(
        key.kind,
        key.study,
        len(people),
        n,
        len(people) * len(key.answers) - n,
        mean(right),
        binomial_interval(k, n),
        chance,
        binomial_tail(k, n, chance),
        stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan,
        mean(sides[True]),
        mean(sides[False]),
        *sense,
        rows,
        trials,
        {"level": LEVEL},
    )


def person(key: AnswerKey, name: str, replies: Sequence[Reply]) -> Participant:
    """One row of the table."""
    n, k = len(replies), sum(is_right(key, reply) for reply in replies)
    d_prime, stderr, _ = detection(key, replies)
    return Participant(name, n, k, len(key.answers) - n, binomial_interval(k, n), d_prime, stderr)


def is_right(key: AnswerKey, reply: Reply) -> bool:
    """Whether an answer is what the key says."""
    said = ("right" if int(reply.answer) >= 3 else "wrong") if key.kind == "agreement" else reply.answer
    return said == key.answers[reply.trial]


def detection(key: AnswerKey, replies: Sequence[Reply]) -> tuple[float, float, float]:
    """d', its standard error and the criterion of answers to bias forms."""
    if key.kind != "bias":
        return math.nan, math.nan, math.nan
    said = {side: [r.answer == "biased" for r in replies if key.answers[r.trial] == side] for side in OPTIONS["bias"]}
    signal, noise = said["biased"], said["clean"]
    return d_prime(sum(signal), len(signal), sum(noise), len(noise))


def d_prime(hits: int, n_signal: int, false_alarms: int, n_noise: int) -> tuple[float, float, float]:
    """d', its standard error and the criterion; see `score_study`."""
    if not n_signal or not n_noise:
        return math.nan, math.nan, math.nan
    places, variance = list[float](), 0.0
    for count, n in ((hits, n_signal), (false_alarms, n_noise)):
        rate = (count + 0.5) / (n + 1)
        z = NORMAL.inv_cdf(rate)
        variance += rate * (1 - rate) / (n * NORMAL.pdf(z) ** 2)
        places.append(z)
    return places[0] - places[1], math.sqrt(variance), -(places[0] + places[1]) / 2


def binomial_tail(k: int, n: int, p: float) -> float:
    """Probability of `k` or more right answers out of `n`, each right with probability `p`."""
    if k <= 0:
        return 1.0
    if p <= 0 or p >= 1:
        return float(p >= 1)
    total = math.lgamma(n + 1)
    logs = [
        total - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k, n + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def binomial_interval(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The rates that `k` of `n` do not speak against, at either side (Clopper and Pearson, Biometrika 1934)."""
    side = (1 - level) / 2

    def rate(count: int, tail: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if binomial_tail(count, n, middle) < tail else (low, middle)
        return (low + high) / 2

    return rate(k, side) if k else 0.0, rate(k + 1, 1 - side) if k < n else 1.0


def mean(values: Sequence[float | int]) -> float:
    """The mean, or not-a-number of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def read_answers(path: Path, key: AnswerKey) -> list[Reply]:
    """The rows of one file, each checked. A spreadsheet may have written it again, with semicolons or tabs."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restval="")
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        rows = [(table.line_num, row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"cannot read '{path}' as a file of answers: {error}.",
            "Take the file as the form saved it; from a spreadsheet, save as CSV in UTF-8.",
        ) from error
    for name in COLUMNS:
        if (found := table.fieldnames.count(name)) != 1:
            seen = "no column" if not found else f"{found} columns"
            raise BadInput(f"'{path}' has {seen} '{name}'.", f"It needs one each of {', '.join(COLUMNS)}.")
    named = [(line, {column: row[column].strip() for column in COLUMNS}) for line, row in rows]
    return [checked(row, path, line, key) for line, row in named if any(row.values())]


def checked(row: Mapping[str, str], path: Path, line: int, key: AnswerKey) -> Reply:
    """One row as an answer, or an error that says where it is wrong."""
    study, name, trial, answer, sure = (row[column] for column in COLUMNS)
    where = f"'{path}', line {line}"
    if study != key.study:
        raise BadInput(
            f"{where}: study '{study}' is not '{key.study}'.", "Pass the key of the form that was filled in."
        )
    if not name:
        raise BadInput(f"{where}: no participant.", "Give every participant a name.")
    if trial not in key.answers:
        raise BadInput(f"{where}: the study has no trial '{trial}'.", "Pass the key of that form.")
    if answer and answer not in OPTIONS[key.kind]:
        raise BadInput(f"{where}: answer '{answer}' is none of {', '.join(OPTIONS[key.kind])}.")
    rating = answer if key.kind == "agreement" else sure
    if rating and rating not in OPTIONS["agreement"]:
        raise BadInput(f"{where}: confidence '{rating}' is not 1, 2, 3 or 4.")
    return Reply(name, trial, answer, int(rating) if rating else None)

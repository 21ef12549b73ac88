"""Answers of people: counted by hand, intervals as SciPy has them, d' from its definition and by simulation."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from glasshouse.core import BadInput
from glasshouse.evaluate.human.scoring import HumanScore, binomial_interval, binomial_tail, d_prime, score_study
from glasshouse.evaluate.human.studies import AnswerKey

AGREEMENT = AnswerKey("s1", "agreement", {"t1": "right", "t2": "right", "t3": "wrong", "t4": "wrong"})
DISTINCTION = AnswerKey("s2", "distinction", {"t1": "A", "t2": "B", "t3": "C", "t4": "D"})
BIAS = AnswerKey("s3", "bias", {f"t{i}": "biased" if i < 10 else "clean" for i in range(20)})
HEAD = "study,participant,trial,answer,confidence"


def file(path: Path, rows: Sequence[str], head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def test_agreement_counts_three_and_four_as_right(tmp_path):
    ann = file(tmp_path / "ann.csv", ["s1,ann,t1,4,", "s1,ann,t2,2,", "s1,ann,t3,1,", "s1,ann,t4,3,"])
    bob = file(tmp_path / "bob.csv", ["s1,bob,t1,3,", "s1,bob,t2,,", "s1,bob,t3,2,"])
    score = score_study(AGREEMENT, [ann, bob])
    assert (score.n_participants, score.n_answered, score.n_missing) == (2, 6, 2)
    assert score.accuracy == pytest.approx(4 / 6)
    assert score.chance == 0.5
    assert score.confidence_right == pytest.approx((4 + 2 + 3) / 3)  # ratings of predictions that are right
    assert score.confidence_wrong == pytest.approx((1 + 3 + 2) / 3)
    assert score.stderr == pytest.approx(math.sqrt(((0.5 - 0.75) ** 2 * 2) / 1) / math.sqrt(2))
    assert [(p.name, p.n_right, p.n_answered, p.n_missing) for p in score.participants] == [
        ("ann", 2, 4, 0),
        ("bob", 2, 2, 2),
    ]
    assert score.trials == {"t1": 1.0, "t2": 0.0, "t3": 1.0, "t4": 0.0}
    assert math.isnan(score.d_prime)
    assert score.p_value == pytest.approx(sum(math.comb(6, k) for k in range(4, 7)) / 2**6)


def test_distinction_is_held_against_a_quarter(tmp_path):
    path = file(tmp_path / "a.csv", ["s2,1,t1,A,4", "s2,1,t2,B,2", "s2,1,t3,A,1", "s2,1,t4,B,"])
    score = score_study(DISTINCTION, path)
    assert (score.accuracy, score.chance) == (0.5, 0.25)
    assert (score.confidence_right, score.confidence_wrong) == (3.0, 1.0)
    assert score.p_value == pytest.approx(1 - 0.75**4 - 4 * 0.25 * 0.75**3)
    assert math.isnan(score.stderr)


def test_d_prime_is_the_difference_of_normal_places_with_half_an_answer_added(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    said = ["biased"] * 8 + ["clean"] * 2 + ["biased"] * 3 + ["clean"] * 7
    rows = [f"s3,x,t{i},{word},3" for i, word in enumerate(said)]
    score = score_study(BIAS, file(tmp_path / "x.csv", rows))
    hit, alarm = stats.norm.ppf(8.5 / 11), stats.norm.ppf(3.5 / 11)
    assert score.d_prime == pytest.approx(hit - alarm)
    assert score.criterion == pytest.approx(-(hit + alarm) / 2)
    slopes = [(rate * (1 - rate), stats.norm.pdf(stats.norm.ppf(rate))) for rate in (8.5 / 11, 3.5 / 11)]
    assert score.d_prime_stderr == pytest.approx(math.sqrt(sum(v / (10 * slope**2) for v, slope in slopes)))
    assert score.accuracy == pytest.approx(15 / 20)
    assert score.participants[0].d_prime == score.d_prime


def test_the_error_of_d_prime_is_its_spread_over_repetitions():
    source = torch.Generator().manual_seed(0)
    n, found = 60, []
    for _ in range(1500):
        hits = int((torch.rand(n, generator=source) < 0.75).sum())
        alarms = int((torch.rand(n, generator=source) < 0.35).sum())
        found.append(d_prime(hits, n, alarms, n))
    values = torch.tensor([one[0] for one in found], dtype=torch.float64)
    claimed = torch.tensor([one[1] for one in found], dtype=torch.float64)
    assert float(claimed.mean()) == pytest.approx(float(values.std()), rel=0.06)


def test_d_prime_stays_finite_for_perfect_people_and_is_zero_for_guessing_ones():
    best = d_prime(10, 10, 0, 10)
    assert math.isfinite(best[0])
    assert best[0] > 3
    assert d_prime(5, 10, 5, 10)[:1] == (0.0,)
    assert d_prime(10, 10, 10, 10)[0] == pytest.approx(0)
    assert math.isnan(d_prime(3, 5, 0, 0)[0])


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 7), (1, 1), (41, 100), (250, 900)])
def test_the_interval_is_the_exact_one_of_scipy(k, n):
    stats = pytest.importorskip("scipy.stats")
    low, high = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert binomial_interval(k, n) == pytest.approx((low, high), abs=1e-9)
    for p in (0.25, 0.5):
        assert binomial_tail(k, n, p) == pytest.approx(stats.binomtest(k, n, p, "greater").pvalue, rel=1e-9)


def test_the_interval_misses_the_truth_in_at_most_five_percent_of_studies():
    rate, n = 0.3, 25
    missed = 0.0
    for k in range(n + 1):
        low, high = binomial_interval(k, n)
        weight = math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
        missed += 0 if low <= rate <= high else weight
    assert missed <= 0.05


def test_without_any_answer_nothing_is_known_and_all_is_missing(tmp_path):
    score = score_study(DISTINCTION, file(tmp_path / "a.csv", ["s2,1,t1,,", "s2,1,t2,,"]))
    assert (score.n_participants, score.n_answered, score.n_missing) == (1, 0, 4)
    assert math.isnan(score.accuracy)
    assert score.interval == (0.0, 1.0)
    assert score.p_value == 1.0


def test_a_file_saved_twice_counts_once_and_a_later_answer_fills_a_gap(tmp_path):
    first = file(tmp_path / "a.csv", ["s2,1,t1,A,1", "s2,1,t2,,"])
    second = file(tmp_path / "b.csv", ["s2,1,t1,A,1", "s2,1,t2,B,2"])
    for order in ([first, second], [second, first], [first, first, second]):
        score = score_study(DISTINCTION, order)
        assert (score.n_participants, score.n_answered, score.accuracy) == (1, 2, 1.0)
    with pytest.raises(BadInput, match=r"another answer of '1' to t1 than before: C and A"):
        score_study(DISTINCTION, [first, file(tmp_path / "c.csv", ["s2,1,t1,C,1"])])


def test_a_confidence_that_was_added_later_is_taken_and_another_one_refused(tmp_path):
    first = file(tmp_path / "a.csv", ["s2,1,t1,A,", "s2,1,t2,,3"])
    second = file(tmp_path / "b.csv", ["s2,1,t1,A,4", "s2,1,t2,A,"])
    for order in ([first, second], [second, first]):
        score = score_study(DISTINCTION, order)
        assert (score.n_answered, score.confidence_right, score.confidence_wrong) == (2, 4.0, 3.0)
    with pytest.raises(BadInput, match=r"another confidence of '1' to t1 than before: 2 and 4"):
        score_study(DISTINCTION, [second, file(tmp_path / "c.csv", ["s2,1,t1,A,2"])])


def test_one_file_may_hold_many_people_and_a_row_twice_but_no_two_answers(tmp_path):
    rows = ["s2,ann,t1,A,1", "s2,bob,t1,B,", "s2,ann,t1,A,1"]
    score = score_study(DISTINCTION, file(tmp_path / "a.csv", rows))
    assert [(p.name, p.n_right, p.n_answered, p.n_missing) for p in score.participants] == [
        ("ann", 1, 1, 3),
        ("bob", 0, 1, 3),
    ]
    with pytest.raises(BadInput, match=r"another answer of 'ann' to t1 than before: C and A"):
        score_study(DISTINCTION, file(tmp_path / "b.csv", [*rows, "s2,ann,t1,C,1"]))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_spreadsheet_may_have_saved_the_file_again(tmp_path, mark):
    path = tmp_path / "a.csv"
    lines = [
        "Trial, answer ,CONFIDENCE,study,participant,note",  # other columns, in another order
        't1,A,1,s2,"Ünal"',
        "",
        ",,,,,",
        " , , , , , ",
        "t2, B,,s2,Ünal,late",
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", mark).encode())
    score = score_study(DISTINCTION, path)
    assert (score.participants[0].name, score.n_answered, score.accuracy) == ("Ünal", 2, 1.0)


def test_the_line_of_a_bad_row_is_that_of_the_file(tmp_path):
    path = file(tmp_path / "a.csv", ["s2,1,t1,A,1", "", 's2,"two', 'lines",t1,B,1', "s2,1,t2,Z,1"])
    with pytest.raises(BadInput, match=r"line 6: answer 'Z'"):
        score_study(DISTINCTION, path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("s2,1,t9,A,1", r"line 2: the study has no trial 't9'"),
        ("s9,1,t1,A,1", r"line 2: study 's9' is not 's2'"),
        ("s2,1,t1,E,1", r"answer 'E' is none of A, B, C, D"),
        ("s2,1,t1,A,5", r"confidence '5' is not 1, 2, 3 or 4"),
        ("s2,,t1,A,1", r"no participant"),
    ],
)
def test_a_row_that_does_not_belong_is_named(tmp_path, row, words):
    with pytest.raises(BadInput, match=words):
        score_study(DISTINCTION, file(tmp_path / "a.csv", [row]))


def test_what_is_no_file_of_answers_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no column 'study'"):
        score_study(DISTINCTION, file(tmp_path / "a.csv", [], head="a,b"))
    with pytest.raises(BadInput, match=r"2 columns 'answer'"):
        score_study(
            DISTINCTION, file(tmp_path / "a.csv", ["s2,1,t1,A,B,1"], head=HEAD.replace("answer", "answer,answer"))
        )
    with pytest.raises(BadInput, match=r"no column 'study'"):
        score_study(DISTINCTION, file(tmp_path / "a.csv", [], head=""))
    with pytest.raises(BadInput, match=r"cannot read"):
        score_study(DISTINCTION, tmp_path / "nowhere.csv")
    for bad in (f"{HEAD}\ns2,Ünal,t1,A,1".encode("cp1252"), HEAD.encode("utf-16"), f"{HEAD}\n{'x' * 200_000}".encode()):
        (tmp_path / "a.csv").write_bytes(bad)
        with pytest.raises(BadInput, match=r"cannot read .*save as CSV in UTF-8"):
            score_study(DISTINCTION, tmp_path / "a.csv")
    with pytest.raises(BadInput, match=r"no files"):
        score_study(DISTINCTION, [])


def test_the_key_may_be_a_file_and_the_score_is_saved(tmp_path):
    path = file(tmp_path / "a.csv", ["s2,1,t1,A,1"])
    score = score_study(DISTINCTION.write(tmp_path / "key.json"), path)
    again = HumanScore.load(score.save(tmp_path / "score.safetensors"))
    assert repr(again) == repr(score)
    assert again.participants == score.participants or math.isnan(score.participants[0].d_prime)
    assert "3 missing" in repr(score)
    assert score.to_dict()["d_prime"] is None

"""The form: whole, self-contained, operable, and silent about its answers."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glasshouse.core import Explanation, draw
from glasshouse.evaluate.human.drafting import OPTIONS
from glasshouse.evaluate.human.scoring import COLUMNS, score_study
from glasshouse.evaluate.human.simulation import simulatability
from glasshouse.evaluate.human.studies import AnswerKey, HumanStudy, human_study
from glasshouse.report import forms
from glasshouse.report.forms import study_form, write_form

N, SIZE = 8, (10, 14)
NAMES = ["zebra", "okapi", "<b>gnu</b>", "tapir", "quagga"]
EVIL = "<script>alert(1)</script>"


def maps(shift: int, signed: bool = True) -> Explanation:
    values = torch.randn(N, *SIZE, generator=torch.Generator().manual_seed(shift))
    classes = tuple((row + shift) % 5 for row in range(N))
    return Explanation(values if signed else values.abs(), values, "by_hand_method", classes, torch.zeros(N), {})


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(N, 3, *SIZE, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def studies(pixels) -> dict[str, HumanStudy]:
    truth = [row % 5 if row % 2 else (row + 1) % 5 for row in range(N)]
    return {
        "agreement": human_study("agreement", pixels, maps(0), truth=truth, class_names=NAMES, seed=77),
        "distinction": human_study("distinction", pixels, [maps(shift, signed=shift > 0) for shift in range(4)]),
        "bias": human_study("bias", pixels, [maps(0), maps(1)], truth=[True, False], n_maps=4),
    }


kinds = pytest.mark.parametrize("kind", list(OPTIONS))


def bare(page: str) -> str:
    """The page without its pictures, style and script."""
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    return re.sub(r"data:image/[^\")]*", "", page)


@kinds
def test_the_page_does_not_depend_on_the_key(kind, studies):
    study = studies[kind]
    other = dict.fromkeys(study.key.answers, "other")
    assert study_form(study) == study_form(replace(study, key=AnswerKey(study.name, kind, other)))


@kinds
def test_all_questions_are_alike_but_for_what_must_be_seen(kind, studies):
    """Without names drawn at random, pictures, what a map looks like and the class that is told, nothing differs."""
    study = studies[kind]
    cards = re.findall(r'<section class="trial".*?</section>', bare(study_form(study)), re.S)
    assert len(cards) == len(study.trials)
    plain = set()
    for number, (card, trial) in enumerate(zip(cards, study.trials, strict=True), 1):
        text = card.replace(trial.name, "NAME").replace(f"Question {number} ", "Question ")
        text = text.replace(f'aria-label="Photograph {number}"', "")
        text = re.sub(r'(alt="Map[^:]*): [^"]*"', r'\1"', text)
        text = re.sub(r"“[^”]*”", "“”", text)
        plain.add(re.sub(r"\bp\d+\b", "pN", text))
    assert len(plain) == 1


@kinds
def test_neither_classes_nor_methods_nor_seeds_are_on_the_page(kind, studies, parsed):
    study = studies[kind]
    text = bare(study_form(study))
    for secret in ("zebra", "okapi", "tapir", "quagga", "by_hand", "target", "seed", "77"):
        told = kind == "agreement" and secret in NAMES
        assert (secret in text) == told, secret
    if kind == "agreement":
        words = re.sub(r"The model says “.*?”", "", text)
        assert not any(name in words for name in NAMES)
    for _, attributes in parsed(text).tags:
        assert re.fullmatch(r"[a-z-]*|t[0-9a-f]{8}|head-(t[0-9a-f]{8}|finish)", attributes.get("id", ""))


@kinds
def test_the_page_is_whole_and_fetches_nothing(kind, studies, parsed):
    page = study_form(studies[kind])
    reader = parsed(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(image["src"].startswith("data:image/") for image in reader.all("img"))
    assert all(found.startswith("data:image/") for found in re.findall(r"url\(([^)]*)\)", page))
    assert not reader.all("link")
    assert not reader.all("form")  # Enter must not send anything anywhere
    assert not re.findall(r"https?://", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


@kinds
def test_every_picture_has_words_and_every_answer_a_control(kind, studies, parsed):
    study, reader = studies[kind], parsed(study_form(studies[kind]))
    assert all("weight lies on" in image["alt"] for image in reader.all("img"))
    assert len(reader.all("img")) == sum(len(trial.maps) for trial in study.trials)
    boxes = [box for box in reader.all("input") if box["type"] == "radio"]
    for trial in study.trials:
        values = [box["value"] for box in boxes if box["name"] == f"answer-{trial.name}"]
        assert tuple(values) == OPTIONS[kind]
        sure = [box["value"] for box in boxes if box["name"] == f"sure-{trial.name}"]
        assert sure == ([] if kind == "agreement" else ["1", "2", "3", "4"])
    page = study_form(study)
    assert page.count("<fieldset") == page.count("<legend>")
    assert f'<progress max="{len(study.trials)}"' in page


def test_all_maps_of_a_study_have_one_colour_map(studies, pixels):
    """Else the one map without negative values would stand out, whatever it shows."""
    assert (studies["distinction"].maps[:N] >= 0).all()
    page = study_form(studies["distinction"])
    assert len(set(re.findall(r"--zero: (#\w+)", page))) == 1
    plain = human_study("bias", pixels, [maps(0, False), maps(1, False)], truth=[True, False], n_maps=3)
    assert "bright: counted for much" in study_form(plain)
    assert "red: spoke for" in page


def test_names_from_outside_cannot_become_html(studies):
    page = study_form(studies["agreement"], title=EVIL, instructions=f"{EVIL}\n\nSecond.")
    assert page.count("<script>") == 1
    assert "&lt;b&gt;gnu" in page
    assert "<p>Second.</p>" in page


def test_page_and_key_are_two_files_whose_names_say_nothing(studies, tmp_path):
    page, key = write_form(studies["distinction"], tmp_path / "new")
    name = studies["distinction"].name
    assert (page.name, key.name) == (f"form-{name}.html", f"key-{name}.json")
    assert page.read_text(encoding="utf-8") == study_form(studies["distinction"])
    assert AnswerKey.read(key).answers == studies["distinction"].key.answers


@kinds
def test_what_the_page_saves_is_what_the_scorer_reads(kind, studies, tmp_path):
    study, page = studies[kind], study_form(studies[kind])
    assert f'"{",".join(COLUMNS)}"' in page
    names = re.findall(r'<section class="trial" id="(\w+)"', page)
    told = {"right": "4", "wrong": "1"} if kind == "agreement" else {option: option for option in OPTIONS[kind]}
    rows = [f"{study.name},ann,{name},{told[study.key.answers[name]]}," for name in names]
    path = tmp_path / "answers.csv"
    path.write_text("\r\n".join([",".join(COLUMNS), *rows, ""]), encoding="utf-8")
    score = score_study(study.key, path)
    assert score.accuracy == 1.0
    assert score.n_missing == 0
    html = draw(score)
    assert "ann" in html
    assert ("d′" in html) == (kind == "bias")


STAGE = """
const input = (card, what, value) => ({name: `${what}-${card.id}`, value, checked: false, on: {},
  addEventListener(kind, run) { this.on[kind] = run; },
  focus() { told.focused.push(this.name); card.on.focusin(); }});
const told = {focused: []};
const card = (id) => {
  const made = {id, on: {}, classList: {toggle() {}}, scrollIntoView() {}};
  made.inputs = ["answer", "sure"].flatMap((what) => ["1", "2", "A", "B"].map((value) => input(made, what, value)));
  made.addEventListener = (kind, run) => { made.on[kind] = run; };
  made.querySelector = (query) => query.endsWith(":checked")
    ? made.inputs.find((one) => query.includes(`"${one.name}"`) && one.checked) : made.inputs[0];
  return made;
};
const thing = () => ({dataset: {study: "s1"}, value: "", on: {}, scrollIntoView() {}, querySelector: () => thing(),
  addEventListener(kind, run) { this.on[kind] = run; }, focus() { told.focused.push("name"); }});
const cards = ["t1", "t2", "t3"].map(card), known = {};
const document = {
  querySelectorAll: (query) => query === ".trial" ? cards
    : query.includes(":checked") ? cards.flatMap((one) => one.inputs.filter((each) => each.checked))
    : query.includes("input") ? [...cards.flatMap((one) => one.inputs), document.getElementById("participant")] : [],
  getElementById: (id) => known[id] ??= thing(),
  createElement: () => ({click() { told.file = this.download; }}),
};
const sessionStorage = {getItem: () => null, setItem() {}};
const addEventListener = () => {};
class Blob { constructor(parts) { told.text = parts.join(""); } }
URL.createObjectURL = () => "blob:";
"""
ACTS = """
const press = (id) => known[id].on.click();
press("next"); press("next"); press("next"); press("next");
press("save");
told.nameless = told.file;
const choose = (one) => { one.checked = true; one.on.change(); };
choose(cards[0].inputs[2]); choose(cards[1].inputs[3]); choose(cards[1].inputs[5]);
press("next");
known.participant.value = ' =Ünal, "x" ';
press("save");
told.said = known.told.textContent;
console.log(JSON.stringify(told));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_script_walks_through_open_questions_and_writes_what_the_scorer_reads(tmp_path):
    script = (Path(forms.__file__).parent / "form.js").read_text(encoding="utf-8")
    done = subprocess.run(["node", "-e", STAGE + script + ACTS], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    walk = ["answer-t1", "answer-t2", "answer-t3", "answer-t1"]  # one left open does not hold anybody up
    assert told["focused"] == [*walk, "answer-t3"]
    assert re.fullmatch(r"answers-s1-p[0-9a-f]{8}\.csv", told["nameless"])  # no spreadsheet takes it for a number
    assert told["file"] == "answers-s1-Ünal_x.csv"
    assert told["said"].endswith("1 question is still open.")
    path = tmp_path / "answers.csv"
    path.write_text(told["text"], encoding="utf-8", newline="")
    score = score_study(AnswerKey("s1", "distinction", {"t1": "A", "t2": "A", "t3": "A"}), path)
    assert [(one.name, one.n_right, one.n_answered, one.n_missing) for one in score.participants] == [
        ("Ünal x", 1, 2, 1)
    ]
    assert score.confidence_wrong == 2.0


def test_a_gain_is_shown_with_its_interval(pixels, parsed):
    score = simulatability(pixels, maps(0).heatmap, [0, 1] * 4, pixels, [0, 1] * 4, neighbours=1)
    html = draw(score)
    parsed(html)
    assert "with random maps" in html
    assert "8 lessons" in html

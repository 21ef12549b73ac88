"""What is exported reads back as it was, and obeys the format to the letter."""

import csv
import hashlib
import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glasshouse.core.errors import BadInput, NotFound
from glasshouse.data.segmentation_check import check_broden
from glasshouse.data.segmentation_export import LabelledImage, export_broden, image_hash
from glasshouse.data.segmentations import Broden, broden

WORDS: dict[str, Sequence[str]] = {
    "object": ("-", "tree", "fabric", "lamp", "never seen"),
    "material": ("-", "wood", "fabric"),
    "scene": ("-", "café-s", "street, at night-s"),
    "empty": ("-", "not here"),
}


def items(n: int = 12) -> list[LabelledImage]:
    draw = torch.Generator().manual_seed(0)

    def some(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=draw)

    found: list[LabelledImage] = []
    for i in range(n):
        planes: dict[str, list[Tensor]] = {"object": [some(4, 4, 5) for _ in range(1 + i % 3)]}
        if i % 2:
            planes["material"] = [some(3, 4, 5).to(torch.uint8)]
        whole = {"scene": [1 + i % 2]} if i % 3 == 0 else {"material": [1], "scene": [2, 1]} if i % 3 == 1 else {}
        pixels = some(256, 8, 10, 3).to(torch.uint8)
        found.append(LabelledImage(f"part{i % 2}/{i}.png", pixels, planes, whole))
    return found


def names(data: Broden, numbers: Tensor) -> Any:
    """Names in place of numbers, in nested lists."""
    if numbers.ndim:
        return [names(data, row) for row in numbers]
    return data.label(int(numbers)).name if int(numbers) else "-"


def by_name(words: Sequence[str], values: Tensor) -> Any:
    return [by_name(words, row) for row in values] if values.ndim else words[int(values)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Broden:
    out = tmp_path_factory.mktemp("sets") / "own"
    return export_broden(items(), out, vocabulary=WORDS, synonyms={"lamp": ("Leuchte", "light")})


def test_what_is_read_back_is_what_was_written(exported: Broden):
    assert check_broden(exported.path).ok
    assert exported.categories == ("object", "material", "scene")  # nothing is marked in the fourth
    given = {item.id: item for item in items()}
    assert set(exported.ids) == set(given)
    for i, name in enumerate(exported.ids):
        item, seen = given[name], exported[i]
        assert torch.equal((seen["image"] * 255).round().to(torch.uint8).permute(1, 2, 0), item.pixels)
        for place, category in enumerate(exported.categories):
            shown = seen["planes"][seen["plane_category"] == place]
            written = item.planes.get(category, [])
            assert names(exported, shown) == [by_name(WORDS[category], plane) for plane in written]
            labels = seen["whole"][seen["whole_category"] == place]
            assert names(exported, labels) == [WORDS[category][n] for n in item.whole.get(category, [])]


def test_exporting_what_was_read_gives_the_same_files(exported: Broden, tmp_path: Path):
    tables = {c: exported.codes(c) for c in exported.categories}
    words = {c: [names(exported, torch.tensor(n)) for n in codes.numbers] for c, codes in tables.items()}

    def again() -> Iterator[LabelledImage]:
        for i, name in enumerate(exported.ids):
            item = exported[i]
            pixels = (item["image"] * 255).round().to(torch.uint8).permute(1, 2, 0)
            planes: dict[str, list[Tensor]] = {}
            whole: dict[str, list[int]] = {}
            for place, category in enumerate(exported.categories):
                codes = tables[category]
                planes[category] = list(codes.to_codes(item["planes"][item["plane_category"] == place]))
                whole[category] = codes.to_codes(item["whole"][item["whole_category"] == place]).tolist()
            yield LabelledImage(name, pixels, planes, whole)

    second = export_broden(again(), tmp_path / "second", vocabulary=words, synonyms={"lamp": ("Leuchte", "light")})
    files = [path.relative_to(exported.path) for path in exported.path.rglob("*") if path.is_file()]
    assert {path.relative_to(second.path) for path in second.path.rglob("*") if path.is_file()} == set(files)
    for file in files:
        assert (second.path / file).read_bytes() == (exported.path / file).read_bytes(), file


def test_frequency_and_coverage_are_counts_over_images(exported: Broden):
    frequency: dict[tuple[str, str], int] = {}
    coverage: dict[tuple[str, str], float] = {}
    for item in items():
        for category, words in WORDS.items():
            for name in words[1:]:
                maps = [by_name(words, plane) for plane in item.planes.get(category, [])]
                share = sum(row.count(name) for plane in maps for row in plane) / 20
                share += name in [words[n] for n in item.whole.get(category, [])]
                if share:
                    frequency[name, category] = frequency.get((name, category), 0) + 1
                    coverage[name, category] = coverage.get((name, category), 0.0) + share
    rows = table(exported.path / "label.csv")
    assert {row["name"] for row in rows} == {name for name, _ in frequency}
    for row in rows:
        own = {category: n for (name, category), n in frequency.items() if name == row["name"]}
        listed = [item.rstrip(")").split("(") for item in row["category"].split(";")]
        assert {category: int(n) for category, n in listed} == own
        assert [int(n) for _, n in listed] == sorted(own.values(), reverse=True)
        assert int(row["frequency"]) == sum(own.values())
        assert float(row["coverage"]) == pytest.approx(sum(coverage[row["name"], c] for c in own), abs=1e-9)
    order = [(-int(row["frequency"]), -float(row["coverage"])) for row in rows]
    assert order == sorted(order)
    assert [int(row["number"]) for row in rows] == list(range(1, len(rows) + 1))
    assert {row["name"]: row["syns"] for row in rows if row["syns"]} == {"lamp": "Leuchte;light"}
    for category in exported.categories:
        for row in table(exported.path / f"c_{category}.csv"):
            assert int(row["frequency"]) == frequency[row["name"], category]
            assert float(row["coverage"]) == pytest.approx(coverage[row["name"], category], abs=1e-9)


def test_a_name_in_two_categories_is_one_label(exported: Broden):
    (fabric,) = [label for label in exported.labels if label.name == "fabric"]
    assert all(fabric.number in exported.codes(category).numbers for category in ("object", "material"))


def test_splits_and_order_follow_the_md5_of_the_name(exported: Broden):
    rows = table(exported.path / "index.csv")
    hashes = [struct.unpack(">Q", hashlib.md5(row["image"].encode()).digest()[:8])[0] / 2.0**64 for row in rows]
    assert hashes == sorted(hashes)
    assert [row["split"] for row in rows] == ["train" if h <= 0.7 else "val" for h in hashes]
    assert len({row["split"] for row in rows}) == 2


def test_the_row_that_the_readme_of_broden_prints_is_in_the_split_it_says():
    assert image_hash("dtd/g_0106.jpg") <= 0.7  # `dtd/g_0106.jpg,train,346,368,…`


def test_rare_and_small_labels_become_no_label(tmp_path: Path):
    def image(i: int, values: list[int], scene: int) -> LabelledImage:
        plane = torch.tensor([values])
        return LabelledImage(
            f"a/{i}.png", torch.zeros(2, 2, 3, dtype=torch.uint8), {"object": [plane]}, {"scene": [scene]}
        )

    three = [image(0, [1, 1, 2, 3], 1), image(1, [1, 0, 2, 0], 2), image(2, [1, 1, 1, 2], 2)]
    by_frequency = export_broden(three, tmp_path / "f", vocabulary=WORDS, min_frequency=2)
    assert [label.name for label in by_frequency.labels] == ["tree", "fabric", "street, at night-s"]
    place = by_frequency.ids.index("a/0.png")
    assert names(by_frequency, by_frequency[place]["planes"][0]) == [["tree", "tree", "fabric", "-"]]
    assert by_frequency[place]["whole"].tolist() == [0]
    scenes = {row["image"]: row["scene"] for row in table(by_frequency.path / "index.csv")}
    assert scenes == {"a/0.png": "", "a/1.png": "3", "a/2.png": "3"}
    by_coverage = export_broden(three, tmp_path / "c", vocabulary=WORDS, min_coverage=1)
    assert [label.name for label in by_coverage.labels] == ["tree", "street, at night-s", "café-s"]
    with pytest.raises(BadInput, match="no label is in 4 images"):
        export_broden(three, tmp_path / "none", vocabulary=WORDS, min_frequency=4)


def test_synonyms_in_the_vocabulary_are_one_label(tmp_path: Path):
    words = {"object": ("-", "cloth", "fabric", "-")}
    plane = torch.tensor([[1, 2, 3]])
    item = LabelledImage("a/0.png", torch.zeros(1, 3, 3, dtype=torch.uint8), {"object": [plane]})
    data = export_broden([item], tmp_path / "own", vocabulary=words, synonyms={"fabric": ("cloth",)})
    assert [(label.name, label.frequency, label.synonyms) for label in data.labels] == [("fabric", 1, ("cloth",))]
    assert data[0]["planes"].tolist() == [[[1, 1, 0]]]


def test_numbers_beyond_255_survive(tmp_path: Path):
    words = {"object": ("-", *(f"thing {i}" for i in range(700)))}
    plane = torch.arange(700).view(20, 35)
    item = LabelledImage("a/0.png", torch.zeros(20, 35, 3, dtype=torch.uint8), {"object": [plane]})
    data = export_broden([item], tmp_path / "own", vocabulary=words)
    assert names(data, data[0]["planes"][0]) == by_name(words["object"], plane)


def test_a_photograph_may_be_stored_as_jpeg(tmp_path: Path):
    ramp = torch.linspace(0, 255, 32).to(torch.uint8).expand(32, 32)[..., None].repeat(1, 1, 3)
    item = LabelledImage("a/0.jpg", ramp, {"object": [torch.ones(2, 2, dtype=torch.long)]})
    data = export_broden([item], tmp_path / "own", vocabulary=WORDS)
    assert (tmp_path / "own/images/a/0.jpg").read_bytes()[:2] == b"\xff\xd8"
    torch.testing.assert_close(data[0]["image"] * 255, ramp.permute(2, 0, 1).float(), rtol=0, atol=3)


def test_progress_grows_to_its_total_also_for_an_iterator(tmp_path: Path):
    for name, source in (("list", items(4)), ("iterator", iter(items(4))), ("generator", (item for item in items(4)))):
        steps: list[tuple[int, int]] = []
        export_broden(source, tmp_path / name, vocabulary=WORDS, progress=lambda *step, to=steps: to.append(step))
        assert [done for done, _ in steps] == list(range(1, 9))
        assert steps[-1] == (8, 8)
        assert all(done <= total for done, total in steps)


def test_images_are_let_go_of_as_soon_as_they_are_written(tmp_path: Path):
    alive: list[int] = []

    def stream() -> Iterator[LabelledImage]:
        kept: list[weakref.ref[LabelledImage]] = []
        for number in range(6):
            item = LabelledImage(f"a/{number}.png", PIXELS, {"object": [PLANE + 1]})
            kept.append(weakref.ref(item))
            yield item
            del item
            alive.append(sum(one() is not None for one in kept))

    export_broden(stream(), tmp_path / "own", vocabulary=WORDS)
    assert max(alive) <= 1


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path):
    def breaks() -> Iterator[LabelledImage]:
        yield from items(2)
        raise RuntimeError("the disk of the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        export_broden(breaks(), tmp_path / "own", vocabulary=WORDS)
    assert not list(tmp_path.iterdir())
    (tmp_path / "own").mkdir()  # an empty folder may be there
    assert len(export_broden(items(2), tmp_path / "own", vocabulary=WORDS)) == 2
    with pytest.raises(BadInput, match="is already there"):
        export_broden(items(2), tmp_path / "own", vocabulary=WORDS)
    assert len(broden(tmp_path / "own")) == 2


def test_an_item_says_what_it_is_in_one_line():
    assert repr(items()[1]) == "LabelledImage(part1/1.png, 8 x 10 px, object, material, scene)"


PIXELS = torch.zeros(4, 4, 3, dtype=torch.uint8)
PLANE = torch.zeros(2, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (LabelledImage("a/0.png", PIXELS, {"object": [PLANE + 5]}), r"'a/0\.png' has 5 in 'object', .* 0…4"),
        (LabelledImage("a/0.png", PIXELS, {"object": [PLANE - 1]}), r"'a/0\.png' has -1 in 'object'"),
        (LabelledImage("a/0.png", PIXELS, {}, {"scene": [3]}), r"'a/0\.png' has 3 in 'scene'"),
        (LabelledImage("a/0.png", PIXELS, {"object": [PLANE], "material": [PLANE[:1]]}), "have sizes"),
        (LabelledImage("a/0.png", PIXELS, {"object": [PLANE[:, :0]]}), "have sizes"),
        (LabelledImage("a/0", PIXELS), "cannot be called 'a/0'"),
        (LabelledImage("../0.png", PIXELS), r"cannot be called '\.\./0\.png'"),
        (LabelledImage("/0.png", PIXELS), "cannot be called"),
        (LabelledImage("a;b.png", PIXELS), "cannot be called"),
    ],
)
def test_items_that_cannot_be_written_are_named(item: LabelledImage, said: str, tmp_path: Path):
    with pytest.raises(BadInput, match=said):
        export_broden([item], tmp_path / "own", vocabulary=WORDS)


def test_names_that_would_overwrite_each_other_are_refused(tmp_path: Path):
    one = LabelledImage("a/0.png", PIXELS, {"object": [PLANE]})
    for other in ("a/0.png", "a/0.jpg", "a/0_object.png"):
        with pytest.raises(BadInput, match=r"two images or label maps would be 'a/0"):
            export_broden([one, LabelledImage(other, PIXELS, {"object": [PLANE]})], tmp_path / "own", vocabulary=WORDS)


def test_an_unknown_category_is_not_found(tmp_path: Path):
    for planes, whole in (({"objects": []}, {}), ({}, {"objects": []})):
        item = LabelledImage("a/0.png", PIXELS, planes, whole)
        with pytest.raises(NotFound, match="no category 'objects'"):
            export_broden([item], tmp_path / "own", vocabulary=WORDS)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocabulary": {}}, "no category"),
        ({"vocabulary": {"object": ("tree",)}}, "do not begin with '-'"),
        ({"vocabulary": {"object": "-tree"}}, "do not begin with '-'"),
        ({"vocabulary": {"object": ("-", "")}}, "an empty name in 'object'"),
        ({"vocabulary": {"a/b": ("-", "x")}}, "cannot be called 'a/b'"),
        ({"vocabulary": {"split": ("-", "x")}}, "cannot be called 'split'"),
        ({"vocabulary": WORDS, "synonyms": {"lamp": ("a;b",)}}, "'a;b' cannot be a synonym"),
        ({"vocabulary": WORDS, "split": 1.5}, "split=1.5 is no share"),
        ({"vocabulary": {"object": ["-", *map(str, range(65536))]}}, "65536 names do not fit"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: Mapping[str, Any], said: str, tmp_path: Path):
    with pytest.raises(BadInput, match=said):
        export_broden(items(2), tmp_path / "own", **settings)
    assert not list(tmp_path.iterdir())


def test_no_images_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="no images to write"):
        export_broden([], tmp_path / "own", vocabulary=WORDS)

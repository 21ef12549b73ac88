"""Studies: done once, gone on with, read without the network, the same whoever does the work."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from glasshouse import Study, data
from glasshouse.core import BadInput, Model, NotFound, Preprocess
from glasshouse.core.shards import Work, serial
from glasshouse.study import studying
from glasshouse.study.store import check

SIZE = 32
SCENES = data.scenes("houses", 48, seed=5, size=SIZE)
IMAGES = data.with_labels(SCENES)


def network() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, len(SCENES.class_names)),
        )
    plain = Preprocess(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Model.of(net.eval(), preprocess=plain, class_names=SCENES.class_names, name="tiny")


def begun(path: Path, model: Model | None = None, **options: Any) -> Study:
    options = {"layers": ["1", "3"], "batch_size": 8, "shard_size": 16, **options}
    return Study(path, model or network(), IMAGES, **options)


def kept(path: Path) -> dict[str, bytes]:
    """The content of all files but the catalogue, which tells the time."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix in (".npy", ".pack"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def answers(path: Path) -> dict[str, Any]:
    study = Study(path)
    nouns = ("exemplars", "dissection", "selectivity", "ablation", "concept_ablation")
    return {
        f"{layer} {name}": noun.to_dict()
        for layer in study.layers
        for name in nouns
        if (noun := getattr(study[layer], name)) is not None
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny"
    with begun(path) as study:
        study.scan(k=3, min_images=2).ablate(n_together=3)
    return path


def test_a_study_is_read_without_network_and_images(finished: Path):
    study = Study(finished)
    assert study.layers == ["1", "3"]
    assert repr(study["3"]) == "StudiedLayer(3: ablation, concept_ablation, dissection, exemplars, selectivity)"
    exemplars, dissection, ablation = study["3"].exemplars, study["3"].dissection, study["3"].ablation
    assert exemplars.strongest.ids.shape == (8, 3)
    assert exemplars.names[int(exemplars.strongest.ids[0, 0])].startswith("houses/5/")
    assert int(dissection.n_images.sum()) == ablation.n_images == len(SCENES)
    with pytest.raises(BadInput, match="open to be read"):
        study.scan()
    with pytest.raises(NotFound, match="studied layer"):
        study["5"]


def test_facts_of_each_unit_say_what_the_results_say(finished: Path):
    layer = Study(finished)["3"]
    facts = layer.units()
    exemplars, dissection, selectivity = layer.exemplars, layer.dissection, layer.selectivity
    ablation = layer.ablation
    assert [row["unit"] for row in facts] == list(range(8))
    for row in facts:
        unit = row["unit"]
        assert row["peak"] == pytest.approx(float(exemplars.peak[unit]))
        assert row["label"] == dissection.label(unit).name
        assert row["iou"] == pytest.approx(float(dissection.iou[unit].max()))
        assert row["iou_low"] <= row["iou"] <= row["iou_high"]
        assert row["preferred"] == SCENES.class_names[int(selectivity.preferred[unit])]
        assert row["max_class_drop"] == pytest.approx(float(ablation.max_class_drop[unit]))
    ranked = layer.units(order_by="iou", descending=True, limit=3)
    assert [row["iou"] for row in ranked] == sorted((row["iou"] for row in facts), reverse=True)[:3]


def test_pictures_of_each_unit_are_kept(finished: Path):
    store = Study(finished).store
    for unit in range(8):
        assert len(store.patches("3", unit)) == 3
        assert len(store.patches("3", unit, "spectrum")) == 9
        assert all(picture.startswith(b"\xff\xd8") for picture in store.patches("3", unit))


def test_the_units_of_a_concept_are_removed_together(finished: Path):
    layer = Study(finished)["3"]
    together, dissection = layer.concept_ablation, layer.dissection
    detected = {dissection.labels[column].name for column in (dissection.iou > 0.04).any(0).nonzero().squeeze(1)}
    assert set(together.names) == detected
    for name, members in zip(together.names, together.members, strict=True):
        assert set(members) == set(dissection.of(name).topk(3).indices.tolist())


def test_what_is_finished_is_not_done_again(finished: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*args: Any, **settings: Any) -> None:
        raise AssertionError("it was done before")

    monkeypatch.setattr(studying, "scan", never)
    monkeypatch.setattr(studying, "ablate_units", never)
    with begun(finished) as study:
        study.scan(k=3, min_images=2).ablate(n_together=3)
        with pytest.raises(BadInput, match="other settings"):
            study.scan(k=4, min_images=2)


def test_a_study_that_was_interrupted_goes_on_to_the_same_bits(finished: Path, tmp_path: Path):
    def tired(work: Work, shards: Sequence[int]) -> None:
        serial(work, shards[:1])
        if len(shards) > 1:
            raise KeyboardInterrupt

    path = tmp_path / "again"
    for _ in range(30):
        try:
            with begun(path, engine=tired) as study:
                study.scan(k=3, min_images=2).ablate(n_together=3)
        except KeyboardInterrupt:
            continue
        break
    assert answers(path) == answers(finished)
    assert kept(path) == kept(finished)
    assert check(path).whole


def test_other_networks_and_other_images_have_studies_of_their_own(finished: Path):
    other = network()
    with torch.no_grad():
        other.module[0].bias[0] += 1
    with pytest.raises(BadInput, match="study of other network"):
        begun(finished, other)
    few = data.with_labels(data.scenes("houses", 8, seed=5, size=SIZE))
    with pytest.raises(BadInput, match="study of other images"):
        Study(finished, network(), few, layers=["1", "3"])


def test_a_model_without_images_is_no_study(tmp_path: Path):
    with pytest.raises(BadInput, match="a model and images"):
        Study(tmp_path / "none", network())


def test_concepts_may_come_from_other_images(tmp_path: Path):
    class Bare:
        """The same images without label maps and classes."""

        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int, /) -> torch.Tensor:
            return SCENES.images[index]

    with Study(tmp_path / "two", network(), Bare(), concepts=IMAGES, layers=["3"], batch_size=8) as study:
        assert not study.has_classes
        study.scan(k=2, min_images=2)
        layer = study["3"]
        assert layer.exemplars.n_images == 12
        assert int(layer.dissection.n_images.sum()) == len(SCENES)
        assert (layer.selectivity, layer.ablation) == (None, None)


@pytest.mark.slow
def test_processes_of_torchrun_write_the_same_study(finished: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\nfrom study.test_studying import begun\n"
        "from glasshouse.core.engines import torchrun_engine\n"
        "import torch\ntorch.set_num_threads(1)\n"
        f"with begun(Path({str(tmp_path / 'shared')!r}), engine=torchrun_engine()) as study:\n"
        "    study.scan(k=3, min_images=2).ablate(n_together=3)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run([*command, "--standalone", str(script)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert answers(tmp_path / "shared") == answers(finished)
    assert kept(tmp_path / "shared") == kept(finished)

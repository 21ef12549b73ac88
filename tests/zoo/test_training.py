import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from glasshouse import zoo
from glasshouse.core.errors import BadInput, BadModel, NotFound
from glasshouse.core.model import Preprocess
from glasshouse.zoo import shipping, training
from glasshouse.zoo.nets.residual import ResidualNet
from glasshouse.zoo.recipes.supervised import Schedule, Supervised
from glasshouse.zoo.training import CHECKPOINT, Recipe, Trained, load_optimiser, optimiser_state, seeded

STEPS = 8


def batch(seed: int, step: int):
    """Images whose brighter half, left or right, is their category."""
    images = torch.rand(8, 3, 28, 28, generator=torch.Generator().manual_seed(1000 * seed + step))
    categories = torch.arange(8) % 2
    images[categories == 0, :, :, :14] += 1
    images[categories == 1, :, :, 14:] += 1
    return images, {"category": categories}


def loss(logits, answers):
    return nn.functional.cross_entropy(logits, answers["category"], reduction="none")


def accuracy(network: nn.Module) -> dict[str, float]:
    images, answers = batch(99, 0)
    with torch.no_grad():
        return {"accuracy": float((network(images).argmax(1) == answers["category"]).double().mean())}


def net() -> nn.Module:
    return ResidualNet(2, width=0.125)


def task(seed: int, device: torch.device, low_precision: bool = True) -> Supervised:
    return Supervised(
        net,
        batch=partial(batch, seed),
        loss=loss,
        look=accuracy,
        schedule=Schedule(1e-2, STEPS, warmup=2),
        seed=seed,
        device=device,
        low_precision=low_precision,
    )


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        name="halves",
        about="Which half is brighter.",
        steps=STEPS,
        task=task,
        network=net,
        figures=accuracy,
        preprocess=Preprocess(size=(28, 28), mean=(0.0,) * 3, std=(1.0,) * 3),
        class_names=lambda: ("left", "right"),
        data="Noise, brighter on one side.",
    )


@dataclass
class Scripted:
    """A task without a network to speak of: each step does as it is told."""

    script: Mapping[int, float] = field(default_factory=dict)
    interrupt_at: int = -1
    network: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))
    count: Tensor = field(default_factory=lambda: torch.zeros(()))

    def step(self, step: int) -> dict[str, float]:
        if step == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        self.count = self.count + 1  # after the signal: an interrupted step must be finished
        return {"loss": self.script.get(step, 1.0)}

    def measure(self) -> dict[str, float]:
        return {"seen": float(self.count)}

    def state(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.count = state["count"]


def scripted(steps: int = STEPS, **script) -> Recipe:
    return Recipe(
        name="script",
        about="",
        steps=steps,
        task=lambda seed, device: Scripted(**script),
        network=lambda: nn.Linear(1, 1),
        figures=lambda network: {},
    )


def same(left: Path, right: Path) -> bool:
    one, other = load_file(left / CHECKPOINT), load_file(right / CHECKPOINT)
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("low_precision", [False, True])
def test_stopping_and_going_on_changes_no_bit(recipe, tmp_path, low_precision):
    recipe = replace(recipe, task=partial(task, low_precision=low_precision))
    whole = zoo.train(recipe, tmp_path / "whole", seed=3, max_steps=6)
    zoo.train(recipe, tmp_path / "parts", seed=3, max_steps=3)
    parts = zoo.train(recipe, tmp_path / "parts", seed=3, max_steps=6)
    assert same(tmp_path / "whole", tmp_path / "parts")
    values = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in (whole, parts)]
    assert values[0] == values[1]
    assert [row["step"] for row in values[0]] == [1, 2, 3, 4, 5, 6]
    assert not whole.finished


@pytest.mark.parametrize("make", [partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam, torch.optim.RMSprop])
def test_an_optimiser_flattened_and_restored_steps_on_in_the_same_way(make):
    def step(weights, optimiser):
        value = sum((w.sin() * (i + 1)).sum() for i, w in enumerate(weights))
        for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True):
            weight.grad = gradient
        optimiser.step()

    first = [torch.linspace(-1, 1, 5, requires_grad=True), torch.tensor(0.3, requires_grad=True)]
    one = make(first, lr=0.1)
    step(first, one)
    second = [w.detach().clone().requires_grad_() for w in first]
    other = make(second, lr=0.1)
    load_optimiser(other, optimiser_state(one))
    for _ in range(3):
        step(first, one)
        step(second, other)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_average_is_the_weighted_sum_of_all_weights_so_far():
    made = task(0, torch.device("cpu"))
    expected = {name: value.double().clone() for name, value in made.network.state_dict().items()}
    for step in range(5):
        made.step(step)
        keep = min(0.999, (1 + step) / (10 + step))
        now = made.learner.state_dict()
        expected = {name: keep * value + (1 - keep) * now[name].double() for name, value in expected.items()}
    for name, value in made.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
        else:
            assert value == 5


def test_a_restart_begins_the_schedule_anew():
    whole, again = Schedule(2.0, 100, warmup=10), Schedule(2.0, 160, warmup=10, restarts=(100,))
    short = Schedule(2.0, 60, warmup=10)
    assert [again.at(step) for step in range(100)] == [whole.at(step) for step in range(100)]
    assert [again.at(step) for step in range(100, 161)] == [short.at(step) for step in range(61)]


def test_the_learning_rate_climbs_then_falls_to_nothing():
    rates = [Schedule(2.0, 100, warmup=10).at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[50] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_training_leaves_the_global_generator_alone(recipe, tmp_path):
    before = torch.random.get_rng_state()
    zoo.train(recipe, tmp_path, max_steps=2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeds_differ_and_repeat():
    def first_weight(seed):
        with seeded(seed):
            return torch.randn(4)

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


@pytest.mark.parametrize(
    ("change", "seed", "word"),
    [({"name": "other"}, 0, "recipe halves, not other"), ({}, 1, "seed 0, not 1"), ({"steps": 9}, 0, "steps 8, not 9")],
)
def test_a_folder_of_another_training_is_refused(recipe, tmp_path, change, seed, word):
    zoo.train(recipe, tmp_path, max_steps=1)
    with pytest.raises(BadInput, match=word):
        zoo.train(replace(recipe, **change), tmp_path, seed=seed)


def test_a_damaged_checkpoint_is_an_error_that_names_it(recipe, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"not safetensors")
    with pytest.raises(BadInput, match=CHECKPOINT.replace(".", r"\.")):
        zoo.train(recipe, tmp_path)


def test_seeds_of_held_out_data_are_refused(recipe, tmp_path):
    with pytest.raises(BadInput, match="held-out"):
        zoo.train(recipe, tmp_path, seed=training.FIRST_HELD_OUT_SEED)


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(tmp_path):
    zoo.train(scripted(), tmp_path, max_steps=3)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(BadModel, match=r"loss is nan at step 5.*from before is kept"):
        zoo.train(scripted(script={4: float("nan")}), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_ctrl_c_finishes_the_step_and_keeps_it(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        zoo.train(scripted(interrupt_at=2), tmp_path)
    assert load_file(tmp_path / CHECKPOINT)["count"] == 3
    assert signal.getsignal(signal.SIGINT) is handler
    assert zoo.train(scripted(), tmp_path).history[-1]["seen"] == STEPS


def test_whatever_a_callback_raises_the_step_is_kept(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        zoo.train(scripted(), tmp_path, progress=stop)
    assert load_file(tmp_path / CHECKPOINT)["count"] == 2


def test_a_budget_of_no_time_keeps_what_is_there(tmp_path):
    done = zoo.train(scripted(), tmp_path, time_budget_s=0)
    assert (done.step, done.finished) == (0, False)
    assert zoo.train(scripted(), tmp_path).finished


def test_rows_hold_the_mean_since_the_row_before_whatever_the_stops(tmp_path):
    values = {step: float(step) for step in range(800)}
    for stop in (3, 5, 800):
        done = zoo.train(scripted(800, script=values), tmp_path, max_steps=stop)
    assert [row["step"] for row in done.history] == list(range(4, 801, 4))
    assert [row["loss"] for row in done.history[:3]] == [1.5, 5.5, 9.5]
    assert sum("seen" in row for row in done.history) == training.MEASUREMENTS


def test_checkpoints_are_written_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    seen = []

    def look(done: int, total: int) -> None:
        seen.append(zoo.step_reached(tmp_path))

    zoo.train(scripted(), tmp_path, progress=look)
    assert seen == list(range(STEPS))
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def test_what_was_trained_can_be_saved_and_read_again(tmp_path):
    done = zoo.train(scripted(), tmp_path)
    assert Trained.load(done.save(tmp_path / "trained.safetensors")) == done
    assert repr(done).startswith("Trained(script, 8 of 8 steps")


# Publishing


@pytest.fixture
def published(recipe, tmp_path, monkeypatch) -> Recipe:
    monkeypatch.setattr(shipping, "FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(zoo.recipes, "_RECIPES", {})
    monkeypatch.setattr(zoo.registry, "_ENTRIES", {})
    zoo.add_recipe(recipe)
    zoo.train(recipe, tmp_path / "run", seed=5)
    zoo.publish(recipe, tmp_path / "run")
    return recipe


def test_a_published_model_loads_by_name_with_all_that_belongs_to_it(published, tmp_path):
    model = zoo.load("halves")
    assert model.class_names == ("left", "right")
    assert model.preprocess == published.preprocess
    assert not model.module.training
    assert "8 steps, seed 5" in model.describe()
    learnt = load_file(tmp_path / "run" / CHECKPOINT)
    for name, value in model.module.state_dict().items():
        assert value.dtype == learnt[f"network.{name}"].dtype
        torch.testing.assert_close(value, learnt[f"network.{name}"], rtol=2**-11, atol=2**-24)


def test_matrices_are_stored_in_half_precision_and_vectors_as_they_are(published, tmp_path):
    stored = load_file(tmp_path / "shipped" / "halves.safetensors")
    assert {value.dtype for value in stored.values() if value.ndim > 1} == {torch.float16}
    assert {value.dtype for value in stored.values() if value.ndim == 1} == {torch.float32}


def test_the_figures_are_those_of_the_shipped_bytes(published):
    recorded = zoo.card("halves").figures
    assert recorded == zoo.measure(published) == accuracy(zoo.load("halves").module)
    assert zoo.card("halves").about["n_weights"] == sum(p.numel() for p in net().parameters())


def test_publishing_again_writes_the_same_bytes(published, tmp_path):
    file = tmp_path / "shipped" / "halves.safetensors"
    before = file.read_bytes()
    zoo.publish(published, tmp_path / "run")
    assert file.read_bytes() == before
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_published_elsewhere_the_file_serves_as_weights(published, tmp_path):
    file = zoo.publish(published, tmp_path / "run", folder=tmp_path / "elsewhere")
    loaded = zoo.load("halves", weights=file)
    assert torch.equal(loaded.module.head.weight, zoo.load("halves").module.head.weight)


def test_a_recipe_without_weights_says_how_to_get_them(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "FOLDER", tmp_path)
    monkeypatch.setattr(zoo.recipes, "_RECIPES", {})
    monkeypatch.setattr(zoo.registry, "_ENTRIES", {})
    zoo.add_recipe(recipe)
    with pytest.raises(BadModel, match="glasshouse train halves"):
        zoo.load("halves")
    assert zoo.load("halves", weights="random").class_names == ()
    assert zoo.card("halves").figures == {}
    with pytest.raises(NotFound, match="nothing was trained"):
        zoo.publish(recipe, tmp_path)


def test_a_damaged_file_is_an_error_that_names_it(published, tmp_path):
    (tmp_path / "shipped" / "halves.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{damaged")
    with pytest.raises(BadModel, match=r"halves.safetensors' is damaged"):
        zoo.load("halves")

"""Detection on maps that are made up, so that what must come out is known; the small network against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute, data, diagnose, zoo
from glasshouse.core import BadInput, Explanation
from glasshouse.diagnose.detect import Training, fitted, fresh, judged, share_right

N = 40


def explanation(heatmap: Tensor) -> Explanation:
    n = len(heatmap)
    return Explanation(heatmap, heatmap[:, None], "made_up", (0,) * n, torch.zeros(n), {})


def bright(model, images: Tensor) -> Explanation:
    """A map that is the image itself."""
    return explanation(images.mean(1))


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 20, 2)).eval()


@pytest.fixture
def clean() -> Tensor:
    return torch.rand(N, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def attacked(images: Tensor, unchanged: int = 0) -> diagnose.Adversarial:
    """All answers changed but for the first few."""
    before = torch.zeros(len(images)).long()
    after = (torch.arange(len(images)) >= unchanged).long()
    return diagnose.Adversarial("by_hand", images, before, before, after, torch.ones(len(images)), "linf")


def test_maps_that_differ_give_the_attack_away(net, clean):
    marked = clean.clone()
    marked[..., 4:12, 4:12] += 1
    found = diagnose.detect_adversarial(net, clean, attacked(marked), explain=bright, n_epochs=12)
    assert found.accuracy > 0.95
    assert abs(found.control - 0.5) < 3 * found.control_stderr
    assert found.method == "made_up"
    assert found.attacked.shape == (N, 2)
    assert (found.attacked[:, 1] > found.attacked[:, 0]).all()
    assert "made_up, 40 images" in repr(found)


def test_maps_that_only_chance_tells_apart_do_not(net, clean):
    other = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1))
    found = diagnose.detect_adversarial(net, clean, attacked(other), explain=bright, n_epochs=12)
    assert abs(found.accuracy - 0.5) < 3 * found.stderr


def test_equal_maps_are_right_exactly_every_other_time(net, clean):
    # However well the network remembers, it says the same of both, and one of the two is right.
    found = diagnose.detect_adversarial(net, clean, attacked(clean), explain=bright, n_epochs=2)
    assert (found.accuracy, found.stderr, found.control, found.control_stderr) == (0.5, 0, 0.5, 0)


def test_only_the_form_of_a_map_can_tell(net, clean):
    found = diagnose.detect_adversarial(net, clean, attacked(7 * clean), explain=bright, n_epochs=2)
    assert (found.accuracy, found.stderr) == (0.5, 0)


def test_an_image_that_kept_its_answer_is_left_out(net, clean):
    found = diagnose.detect_adversarial(net, clean, attacked(clean, unchanged=5), explain=bright, n_epochs=1)
    assert found.rows.tolist() == list(range(5, N))


def test_a_seed_decides_everything_and_the_global_one_nothing(net, clean, tmp_path):
    noisy = attacked(clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2)))

    def run(seed: int) -> diagnose.Detection:
        return diagnose.detect_adversarial(net, clean, noisy, explain=bright, n_epochs=2, seed=seed)

    state = torch.random.get_rng_state()
    first, again, other = run(0), run(0), run(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.attacked, again.attacked)
    assert not torch.equal(first.attacked, other.attacked)
    back = diagnose.Detection.load(first.save(tmp_path / "detection.safetensors"))
    assert back.to_dict() == first.to_dict()


def test_the_small_network_and_its_training_are_those_of_torch():
    weights = fresh(torch.Generator().manual_seed(0))
    layers: list[nn.Module] = []
    for kernel in weights[:-2:2]:
        layers += [nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, stride=2, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(weights[-2].shape[1], 1))
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), weights, strict=True):
            parameter.copy_(weight)
    maps = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    answers = torch.tensor([0.0, 1, 0, 1, 1, 0])
    torch.testing.assert_close(judged(weights, maps), net(maps)[:, 0])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(net(maps)[:, 0], answers).backward()
        optimiser.step()
    trained = fitted(maps, answers, Training(3, 0.02, 1e-2), torch.Generator().manual_seed(0))
    torch.testing.assert_close(judged(trained, maps), net(maps)[:, 0].detach(), rtol=1e-4, atol=1e-5)


def test_the_standard_error_takes_the_two_maps_of_an_image_as_one_draw():
    told = torch.tensor([[0.1, 0.9], [0.9, 0.8], [0.2, 0.1], [0.7, 0.3]])
    value, stderr = share_right(told, torch.zeros(4).bool())
    right = torch.tensor([1, 0.5, 0.5, 0.0]).double()
    assert value == 0.5
    assert stderr == pytest.approx(float((right - 0.5).square().sum().div(3).sqrt() / 2))
    assert share_right(told, torch.ones(4).bool())[0] == 0.5


def test_any_attribution_method_explains(net, clean):
    found = diagnose.detect_adversarial(net, clean, attacked(1 - clean), explain=attribute.saliency, n_epochs=1)
    assert found.method == "saliency"
    assert found.settings["explain"] == "saliency"


def test_too_few_images_and_other_images_are_errors(net, clean):
    with pytest.raises(BadInput, match="too few"):
        diagnose.detect_adversarial(net, clean, attacked(clean, unchanged=N - 3), explain=bright)
    with pytest.raises(BadInput, match="not those"):
        diagnose.detect_adversarial(net, clean[:9], attacked(clean), explain=bright)


@pytest.mark.slow
@pytest.mark.parametrize("method", [attribute.saliency, attribute.grad_cam])
def test_on_creatures_heat_maps_give_attacks_away(method):
    model, scenes = zoo.load("creatures_cnn"), data.scenes("creatures", 80, size=64, seed=1_000_005, labels=False)
    images = model.preprocess.normalise(scenes.images)
    adversarial = diagnose.pgd(model, images, step_size=1 / 255, random_start=False)
    assert adversarial.success.float().mean() > 0.9
    found = diagnose.detect_adversarial(model, images, adversarial, explain=method, chunk=40)
    assert found.accuracy > 0.5 + 3 * found.stderr
    assert abs(found.control - 0.5) < 3 * found.control_stderr

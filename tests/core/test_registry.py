"""Methods by name, those of other packages included."""

import pytest

from glasshouse.core import Cost, NotFound, find_method, list_methods, registered
from glasshouse.core import registry as registry_of


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict:
    """A copy of the registry, to be written to."""
    monkeypatch.setattr(registry_of, "_registry", dict(registry_of._registry))
    monkeypatch.setattr(registry_of, "_plugins_loaded", [])
    return registry_of._registry


class Entry:
    """What an installed package announces."""

    def __init__(self, name, load):
        self.name, self.load = name, load


def announce(monkeypatch: pytest.MonkeyPatch, *entries: Entry):
    def entry_points(*, group: str):
        return entries if group == "glasshouse.methods" else ()

    monkeypatch.setattr(registry_of, "entry_points", entry_points)


def arrive():
    @registered("attribute", cost=lambda settings, shape: Cost(1), paper="Somebody, 2026")
    def from_elsewhere(model, images, *, strength: float = 2.0):
        """What somebody else's package says.

        The rest.
        """


def test_a_plug_in_is_found_by_name_and_by_pattern(registry, monkeypatch):
    announce(monkeypatch, Entry("elsewhere", arrive))
    assert "attribute.from_elsewhere" in list_methods("attribute.*else*")
    info = find_method("from_elsewhere")
    assert (info.folder, info.short) == ("attribute", "from_elsewhere")
    assert info.title == "What somebody else's package says."
    assert info.defaults == {"strength": 2.0}
    assert info.cost is not None
    assert info.cost(info.defaults, (1, 3, 8, 8)) == Cost(1, 0)


def test_plug_ins_are_loaded_once(registry, monkeypatch):
    loads = []
    announce(monkeypatch, Entry("counted", lambda: loads.append(1)))
    list_methods()
    list_methods()
    assert loads == [1]


def test_a_broken_plug_in_is_named_and_takes_nothing_with_it(registry, monkeypatch):
    def fail():
        raise ImportError("no module named 'gone'")

    announce(monkeypatch, Entry("broken", fail), Entry("elsewhere", arrive))
    with pytest.warns(UserWarning, match="plug-in 'broken' cannot be loaded: no module named 'gone'"):
        names = list_methods()
    assert "attribute.from_elsewhere" in names


def test_an_unknown_name_tells_the_nearest(registry, monkeypatch):
    announce(monkeypatch, Entry("elsewhere", arrive))
    with pytest.raises(NotFound, match="Did you mean 'from_elsewhere'"):
        find_method("from_elswhere", "attribute")

"""Changes to a host that undo themselves."""
from types import SimpleNamespace

import pytest

from ivmixed.patch import replaced


class Host:
    def answer(self):
        return "host's"

    @property
    def twice(self):
        return 2 * self.value

    @twice.setter
    def twice(self, value):
        self.value = value / 2


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_afterwards_an_attribute_is_as_before(error):
    host, names = SimpleNamespace(own=[1]), Host()
    before, names.value = host.own, 3
    try:
        with replaced(host, "own", [2]), replaced(names, "answer", lambda: "ours"), replaced(names, "twice", 10):
            assert (host.own, names.answer(), names.value) == ([2], "ours", 5)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert host.own is before and names.value == 3
    assert names.answer() == "host's" and "answer" not in vars(names)  # inherited again, not kept


def test_the_last_change_is_undone_first():
    host = SimpleNamespace(own=0)
    with replaced(host, "own", 1):
        with replaced(host, "own", 2):
            assert host.own == 2
        assert host.own == 1
    assert host.own == 0


def test_what_is_not_there_is_not_made_up():
    host = SimpleNamespace()
    with pytest.raises(AttributeError), replaced(host, "own", 1):
        raise AssertionError("replaced")
    assert vars(host) == {}

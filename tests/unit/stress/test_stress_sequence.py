# SPDX-License-Identifier: MIT
"""The same seed draws the same operations, whatever became of those before."""

from collections import Counter

from ptshare.stress.operations import kinds
from ptshare.stress.sequence import Draw, Drawer
from ptshare.stress.worker import weights


def test_the_same_name_draws_the_same() -> None:
    first, second, other = (Drawer(name, [1, 2, 3]) for name in ("7/0/0/", "7/0/0/", "7/1/0/"))
    drawn = [
        [(kind, draw.below(1 << 30)) for kind, draw in (d.next() for _ in range(100))]
        for d in (first, second, other)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_what_an_operation_takes_does_not_change_the_next() -> None:
    greedy, modest = Drawer("name", [1, 1]), Drawer("name", [1, 1])
    for _ in range(20):
        _, draw = greedy.next()
        for _ in range(40):
            draw.below(1000)
        modest.next()
    kind, draw = greedy.next()
    other_kind, other_draw = modest.next()
    assert (kind, draw.below(1 << 20)) == (other_kind, other_draw.below(1 << 20))


def test_weights() -> None:
    drawer = Drawer("weights", [0, 30, 10, 0])
    count = Counter(drawer.next()[0] for _ in range(4000))
    assert set(count) == {1, 2}
    assert 2.5 < count[1] / count[2] < 3.5


def test_numbers_are_spread() -> None:
    drawer = Drawer("spread", [1])
    draws = [drawer.next()[1] for _ in range(2000)]
    for _ in range(12):  # the last that an operation takes are as good as the first
        assert len({draw.below(50) for draw in draws}) == 50
    assert {Draw(number).between(3, 5) for number in range(30)} == {3, 4, 5}


def test_each_kind_of_operation_has_a_name_of_its_own() -> None:
    names = [kind.name for kind in kinds()]
    assert len(set(names)) == len(names)
    # A process that executes Python anew imports in another order than its supervisor.
    assert names == sorted(names)


def test_what_cannot_be_done_is_never_drawn() -> None:
    everything = frozenset({"shared", "root", "reclaim", "exec"})
    assert all(weights(everything, child=False))
    drawn = {
        kind.name for kind, weight in zip(kinds(), weights(frozenset(), child=False), strict=True) if weight
    }
    assert "read.load" in drawn
    assert not drawn & {"protect.mprotect", "refused", "machine.drop-caches", "machine.reclaim", "execute"}
    child = {
        kind.name for kind, weight in zip(kinds(), weights(everything, child=True), strict=True) if weight
    }
    assert "write.store" in child
    assert not child & {"process.fork", "process.exec", "process.exit"}

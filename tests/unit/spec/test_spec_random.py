# SPDX-License-Identifier: MIT
"""The model under random calls: what holds after each step holds, and what is read is what was written."""

import errno

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ptshare.spec.advice import ADVICE
from ptshare.spec.entries import GIB, GRANULE, PAGE
from ptshare.spec.faults import access
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import Locks, broken
from ptshare.spec.shows import present
from ptshare.spec.system import EXECUTE, NONE, READ, WRITE, Process, System

GRANULES = 3
#: Pages that are used: few, so that calls meet.
PAGES = st.sampled_from([0, 1, 512, 1535])
PROT = st.sampled_from([NONE, READ, READ | WRITE, READ | EXECUTE, READ | WRITE | EXECUTE])
PLACES = st.sampled_from([4 * GIB, 4 * GIB + GRANULE])
#: Also where no granule begins.
ANYWHERE = st.sampled_from([4 * GIB, 4 * GIB + GRANULE, 4 * GIB + PAGE])
LENGTHS = st.sampled_from([PAGE, GRANULE, 2 * GRANULE, 3 * GRANULE])
WHO = st.integers(0, 2)


class Calls(RuleBasedStateMachine):
    """Up to three processes with a file of three granules, which they have mapped from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.system = System(2)
        self.locks = Locks()
        self.file = self.system.file("data", GRANULES * GRANULE)
        #: What stands in the pages, kept by this test: nothing of it comes from the model.
        self.stands: dict[int, int] = {}
        self.step = 0
        for cpu in self.system.cpus:
            process = self.system.process()
            opened = OpenFile(self.file)
            self.system.mmap(process, 4 * GIB, GRANULES * GRANULE, READ | WRITE, opened, shared_pt=True)
            self.system.switch(cpu, process)

    def pick(self, number: int) -> Process:
        processes = list(self.system.processes.values())
        return processes[number % len(processes)]

    @rule(
        who=WHO,
        place=PLACES,
        first=st.integers(0, 2),
        count=st.integers(1, 3),
        prot=PROT,
        writable=st.booleans(),
        shared=st.booleans(),
        locked=st.booleans(),
    )
    def map(
        self,
        who: int,
        place: int,
        first: int,
        count: int,
        prot: int,
        writable: bool,
        shared: bool,
        locked: bool,
    ) -> None:
        process = self.pick(who)
        outcome = self.system.mmap(
            process,
            place,
            count * GRANULE,
            prot,
            OpenFile(self.file, writable),
            first * GRANULE,
            shared_pt=shared,
            locked=locked,
        )
        expected = 0
        if prot & WRITE and (not writable or (process.mdwe and prot & EXECUTE)):
            expected = errno.EACCES
        if shared and not self.system.enabled:
            expected = errno.EOPNOTSUPP
        assert outcome.errno == expected
        if shared and not expected:
            mapping = process.at(place)
            assert mapping is not None
            assert mapping.domain is not None
            assert mapping.domain.access.mdwe is process.mdwe

    @rule(who=WHO, place=PLACES, count=st.integers(1, 3))
    def unmap(self, who: int, place: int, count: int) -> None:
        assert self.system.munmap(self.pick(who), place, count * GRANULE).errno == 0

    @rule(who=WHO, place=PLACES, page=PAGES, prot=PROT)
    def protect(self, who: int, place: int, page: int, prot: int) -> None:
        process, address = self.pick(who), place + page * PAGE
        mapping = process.at(address)
        outcome = self.system.mprotect(process, address, PAGE, prot)
        assert outcome.errno in (0, errno.ENOMEM, errno.EACCES)
        if mapping is None:
            assert outcome.errno == errno.ENOMEM
        elif prot & WRITE and not mapping.opened.writable:
            assert outcome.errno == errno.EACCES

    @rule(
        who=WHO,
        cpu=st.integers(0, 1),
        place=PLACES,
        page=PAGES,
        right=st.sampled_from([1, 2, 4]),
    )
    def access(self, who: int, cpu: int, place: int, page: int, right: int) -> None:
        process, address = self.pick(who), place + page * PAGE
        one = self.system.cpus[cpu]
        if one.runs is not process:
            self.system.switch(one, process)
        mapping = process.at(address)
        self.step += 1
        outcome = access(self.system, one, address, right, self.step)
        if mapping is None:
            assert outcome.signal == "SIGSEGV"
            return
        where = mapping.page(address)
        domain = mapping.domain
        prot = mapping.prot if domain is None else domain.protection_of(where)
        allowed = prot & right or (right == READ and prot)
        expected = "" if allowed else "SIGSEGV"
        # An instruction is read first, where there is no page.
        read_first = right == EXECUTE and domain is None and prot
        if (not expected or read_first) and where >= self.file.pages:
            expected = "SIGBUS"
        assert outcome.signal == expected
        if not expected and right == WRITE:
            self.stands[where] = self.step
        if not expected:
            assert outcome.value == self.stands.get(where, 0)

    def gone(self, first: int, end: int) -> None:
        """What stood in pages of the file."""
        self.stands = {at: value for at, value in self.stands.items() if not first <= at < end}

    @rule(page=PAGES, right=st.sampled_from([READ, WRITE]))
    def everyone(self, page: int, right: int) -> None:
        """Both CPUs get to hold translations, each in its turn."""
        for who in range(len(self.system.processes)):
            for place in (4 * GIB, 4 * GIB + GRANULE):
                self.access(who=who, cpu=who % 2, place=place, page=page, right=right)

    @rule(
        what=st.sampled_from(["lock all", "guests", "exec", "deny", "anonymous", "anywhere", "off"]),
        who=WHO,
        on=st.booleans(),
        place=ANYWHERE,
    )
    def rarely(self, what: str, who: int, on: bool, place: int) -> None:
        """Calls that would take the others' turns if each was a rule."""
        match what:
            case "lock all":
                self.lock_all(who, on)
            case "guests":
                self.not_for_guests(who, place)
            case "exec":
                self.execute(who)
            case "deny":
                self.deny_itself(who)
            case "anonymous":
                self.map_anonymous_memory(who, 1 + on)
            case "anywhere":
                self.map_anywhere(who)
            case "off":
                self.switch_off(on)

    @rule(who=WHO, place=ANYWHERE, length=LENGTHS, advice=st.sampled_from(ADVICE))
    def advise(self, who: int, place: int, length: int, advice: str) -> None:
        process = self.pick(who)
        found = process.within(place, place + length)
        outcome = self.system.madvise(process, place, length, advice)
        assert outcome.errno in (0, errno.EINVAL, errno.ENOMEM, errno.EACCES, errno.EFAULT)
        if any(mapping.domain for mapping in found) and advice in ("HUGEPAGE", "COLLAPSE"):
            assert outcome.errno == errno.EINVAL
        if advice == "REMOVE":
            # One mapping after the other, up to the first that refuses.
            for mapping in found:
                if mapping.locked or not mapping.opened.writable:
                    break
                part = mapping.part(place, place + length)
                self.gone(part.page(part.start), part.page(part.end))

    @rule(who=WHO, place=ANYWHERE, length=LENGTHS, on=st.booleans())
    def lock(self, who: int, place: int, length: int, on: bool) -> None:
        process = self.pick(who)
        call = self.system.mlock if on else self.system.munlock
        outcome = call(process, place, length)
        assert outcome.errno in (0, errno.EINVAL, errno.ENOMEM)
        if not outcome.errno:
            assert all(one.locked is on for one in process.within(place, place + length))

    def lock_all(self, who: int, on: bool) -> None:
        process = self.pick(who)
        assert (self.system.mlockall if on else self.system.munlockall)(process).errno == 0
        assert all(mapping.locked is on for mapping in process.mappings)

    @rule(
        who=WHO,
        place=ANYWHERE,
        length=st.sampled_from([0, PAGE, GRANULE, 2 * GRANULE]),
        new=LENGTHS,
        to=st.sampled_from([None, 4 * GIB, 4 * GIB + 4 * GRANULE, 5 * GIB, 5 * GIB + PAGE]),
    )
    def remap(self, who: int, place: int, length: int, new: int, to: int | None) -> None:
        process = self.pick(who)
        mapping = process.at(place)
        page = mapping.page(place) if mapping else 0
        outcome = self.system.mremap(process, place, length, new, to)
        assert outcome.errno in (0, errno.EINVAL, errno.EFAULT)
        if not outcome.errno and to is not None:
            moved = process.at(to)
            assert mapping is not None
            assert moved is not None
            assert (moved.page(to), moved.domain) == (page, mapping.domain)

    @rule(who=WHO, place=ANYWHERE, length=LENGTHS)
    def ask(self, who: int, place: int, length: int) -> None:
        process = self.pick(who)
        outcome = self.system.mincore(process, place, length)
        if not outcome.errno:
            for address in range(place, place + length, PAGE):
                if present(process, address):
                    assert outcome.value >> (address - place) // PAGE & 1
        synced = self.system.msync(process, place, length)
        assert synced.errno == outcome.errno

    @rule(who=WHO, place=ANYWHERE, length=LENGTHS, key=st.sampled_from([-1, 0, 1]), prot=PROT)
    def protect_with_key(self, who: int, place: int, length: int, key: int, prot: int) -> None:
        process = self.pick(who)
        process.keys.add(1)
        guests = any(mapping.domain for mapping in process.within(place, place + length))
        outcome = self.system.pkey_mprotect(process, place, length, prot, key)
        if key == 1 and guests:
            assert outcome.errno in (errno.EINVAL, errno.ENOMEM, errno.EACCES)
        assert not any(mapping.domain and mapping.key for mapping in process.mappings)

    def not_for_guests(self, who: int, place: int) -> None:
        process = self.pick(who)
        mapping = process.at(place)
        if mapping is None or mapping.domain:
            assert self.system.remap_file_pages(process, place, PAGE).errno == errno.EINVAL
        if mapping and mapping.domain:
            assert self.system.userfaultfd_register(process, place, PAGE).errno == errno.EINVAL

    def execute(self, who: int) -> None:
        process = self.pick(who)
        self.system.exec(process)
        assert (process.mappings, self.system.vm_pte(process).all) == ([], 0)

    def deny_itself(self, who: int) -> None:
        self.system.set_mdwe(self.pick(who))

    def map_anonymous_memory(self, who: int, granules: int) -> None:
        place = 4 * GIB + 8 * GRANULE
        outcome = self.system.mmap(
            self.pick(who), place, granules * GRANULE, READ | WRITE, None, shared_pt=True, noreplace=True
        )
        assert outcome.errno in ((0, errno.EEXIST) if self.system.enabled else (errno.EOPNOTSUPP,))

    def map_anywhere(self, who: int) -> None:
        opened = OpenFile(self.file)
        process = self.pick(who)
        outcome = self.system.mmap(
            process, None, GRANULE, READ, opened, GRANULE, shared_pt=self.system.enabled
        )
        assert outcome.errno == 0
        assert process.at(outcome.value) is not None
        assert self.system.munmap(process, outcome.value, GRANULE).errno == 0

    def switch_off(self, on: bool) -> None:
        self.system.enabled = on

    @rule(who=WHO)
    @precondition(lambda self: len(self.system.processes) < 3)
    def fork(self, who: int) -> None:
        self.system.fork(self.pick(who))

    @rule(who=WHO)
    @precondition(lambda self: len(self.system.processes) > 1)
    def exit(self, who: int) -> None:
        self.system.exit(self.pick(who))

    @rule(page=PAGES, count=st.sampled_from([1, 600]))
    def punch(self, page: int, count: int) -> None:
        self.system.punch(self.file, page, page + count)
        self.gone(page, page + count)

    @rule(page=PAGES)
    def truncate(self, page: int) -> None:
        self.system.truncate(self.file, page * PAGE)
        self.gone(page, GRANULES * 512)

    @rule()
    def extend(self) -> None:
        self.system.truncate(self.file, GRANULES * GRANULE)

    @rule(page=PAGES, count=st.sampled_from([1, 600]))
    def reclaim(self, page: int, count: int) -> None:
        self.system.reclaim(self.file, page, page + count)

    @rule(page=PAGES)
    def migrate(self, page: int) -> None:
        self.system.migrate(self.file, page)

    @rule()
    def sync(self) -> None:
        self.system.fsync(self.file)
        assert self.system.fsync(self.file) == 0

    @invariant()
    def all_holds(self) -> None:
        assert list(broken(self.system)) == []
        assert list(self.locks.broken(self.system)) == []


TestCalls = Calls.TestCase
TestCalls.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

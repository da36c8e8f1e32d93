# SPDX-License-Identifier: MIT
"""A run in order: what it needs, the processes, killing and starting them, the last look at everything."""

import contextlib
import gc
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ptshare import abi, counters, syscalls
from ptshare.counters import SharingCounters
from ptshare.demo import signals
from ptshare.demo.errors import CannotRunError
from ptshare.lab.console import scan
from ptshare.stress import content, pressure
from ptshare.stress.control import DONE, SKIPPED, Control
from ptshare.stress.files import GUARDED_HALF, File, Files, make_files
from ptshare.stress.operations import kinds
from ptshare.stress.operations.protection import REFUSED
from ptshare.stress.setup import CLASSES, GUARDED, Setup
from ptshare.stress.worker import FAILED, live, make_control
from ptshare.support import probe
from ptshare.syscalls import PAGE

__all__ = ["Options", "Results", "run"]

#: Seconds after which a process that does not get on is taken for hung.
_HUNG = 300.0
#: Seconds between two looks whether all get on.
_LOOK = 2.0
#: Seconds until counters must be where they were.
_SETTLE = 10.0
#: Mean seconds between two processes killed.
_KILL = 0.6
_TAIL = 24

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Options:
    """What to run.

    :param ordinary: with ordinary page tables, to tell what a kernel does without ours
    :param privileged: use what only root may, if this is root
    """

    seconds: float
    seed: int
    processes: int = 12
    ordinary: bool = False
    privileged: bool = True

    @property
    def root(self) -> bool:
        """What only root may is used."""
        return self.privileged and os.geteuid() == 0


@dataclass
class Results:
    """What was done, and what is wrong.

    :param files: their names, by role
    :param pressure: what there was of it
    :param unused: what was not there, and why
    :param operations: by kind
    :param verified: pages looked at
    :param killed: processes killed with SIGKILL
    :param failure: what is wrong; empty: nothing
    """

    kernel: str
    options: Options
    files: dict[str, list[str]] = field(default_factory=dict)
    pressure: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    seconds: float = 0.0
    operations: dict[str, int] = field(default_factory=dict)
    verified: int = 0
    killed: int = 0
    failure: str = ""


class _Failure(Exception):
    """The run has found something wrong. The message says what."""


def check(options: Options) -> None:
    """May it run here?

    :raises CannotRunError: it may not
    """
    if options.ordinary:
        return
    support = probe()
    if not support.supported:
        raise CannotRunError(
            f"page tables cannot be shared: {support.reason}; on the lab's kernel: "
            f"ptshare lab run -- .venv/bin/ptshare stress --seconds {options.seconds:g} --seed {options.seed}"
        )


def run(options: Options, say: Callable[[str], object]) -> Results:
    """The whole run.

    :param say: called with what happens, a line each
    :raises CannotRunError: it cannot be done here
    """
    check(options)
    results = Results(os.uname().release, options)
    before = counters.sharing_counters()
    with _kernel_reports() as reports, _subreaper():
        try:
            _run(options, results, say)
            if not options.ordinary:
                _settled(before)
        except _Failure as failure:
            results.failure = str(failure)
        found = reports()
    if found:
        results.failure = "\n".join([*filter(None, [results.failure]), f"the kernel reported: {found}"])
    return results


@contextmanager
def _subreaper() -> Iterator[None]:
    """Children of processes that are killed become ours."""
    syscalls.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        syscalls.libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


@contextmanager
def _kernel_reports() -> Iterator[Callable[[], str]]:
    """What the kernel complains about meanwhile, if we may read that."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield lambda: ""
        return
    os.lseek(log, 0, os.SEEK_END)

    def read() -> str:
        lines = []
        while True:
            try:
                record = os.read(log, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # some were overwritten before we came
                continue
            lines.append(record.partition(b";")[2].partition(b"\n")[0])
        return "; ".join(report.text for report in scan(b"\n".join(lines)))

    try:
        yield read
    finally:
        os.close(log)


def _settled(before: SharingCounters | None) -> None:
    """All domains, guests and tables are gone that were not there before."""
    deadline = time.monotonic() + _SETTLE
    while (now := counters.sharing_counters()) != before:
        if time.monotonic() > deadline:
            raise _Failure(f"a leak: {abi.SYSFS} was {before} and is {now}")
        time.sleep(0.05)


def _run(options: Options, results: Results, say: Callable[[str], object]) -> None:
    number = random.SystemRandom().getrandbits(48)
    with ExitStack() as stack:
        made = stack.enter_context(make_files(number, guarded=not options.ordinary, root=options.root))
        results.unused += made.unused
        for file in made.all:
            results.files.setdefault(file.role, []).append(file.name)
        group = _press(stack, results)
        setup = _setup(stack, options, made, number, group)
        control = make_control(setup)
        limit = 0
        if group:
            volatile = sum(file.size for file in made.all if file.path is None or "tmpfs" in file.name)
            limit = group.limit(options.processes, volatile)
            results.pressure.append(f"a control group of {limit >> 20} MiB with a hog")
        for line in _introduce(results):
            say(line)
        crew = _Crew(setup, control, results, group, limit)
        start = time.monotonic()
        try:
            crew.work(options.seconds, say)
            crew.end()
        finally:
            crew.kill()
            results.seconds = time.monotonic() - start
            crew.count()
        _last_look(setup, control, made)


def _press(stack: ExitStack, results: Results) -> pressure.Group | None:
    """Memory pressure, as far as it can be had."""
    if not results.options.root:
        results.unused.append("memory pressure: only root can make it")
        return None
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ptshare-stress-")))
    try:
        results.pressure.append(f"swap: {stack.enter_context(pressure.swap(scratch))}")
    except (CannotRunError, OSError) as error:
        results.unused.append(f"swap: {error}")
    try:
        return stack.enter_context(pressure.group(f"ptshare-stress-{os.getpid()}"))
    except CannotRunError as error:
        results.unused.append(f"memory pressure: {error}")
        return None


def _setup(
    stack: ExitStack, options: Options, made: Files, number: int, group: pressure.Group | None
) -> Setup:
    descriptors = []
    for name in ("control", "locks", "crash"):
        fd = os.memfd_create(f"ptshare-stress-{name}")
        stack.callback(os.close, fd)
        descriptors.append(fd)
    features = {"shared"} if not options.ordinary else set()
    if options.root:
        features.add("root")
    if group:
        features.add("reclaim")
    if all(_executable(file) for file in made.all):
        features.add("exec")
    keepers = {}
    for file in made.of("guard"):
        for access in GUARDED:
            # Without a guest the domain would go, and with it the protection.
            at = syscalls.mmap(file.size, CLASSES[access].prot, syscalls.SHARED_PT, file.fd)
            stack.callback(syscalls.munmap, at, file.size)
            keepers[access] = at
    control, locks, crash = descriptors
    setup = Setup(
        seed=options.seed,
        run=number,
        processes=options.processes,
        features=frozenset(features),
        files=tuple(made.all),
        control=control,
        locks=locks,
        crash=crash,
        supervisor=os.getpid(),
        keepers=keepers,
        cgroup=str(group.path) if group else "",
    )
    memory = make_control(setup)
    for index in range(len(memory.rights)):
        memory.rights[index] = memory.announced_rights[index] = CLASSES[index // setup.regions].prot
    return setup


def _executable(file: File) -> bool:
    """It can be mapped executable."""
    fd = file.open(write=False)
    try:
        at = syscalls.mmap(PAGE, syscalls.R | syscalls.X, syscalls.MAP_SHARED, fd)
    except PermissionError:
        return False
    finally:
        os.close(fd)
    syscalls.munmap(at, PAGE)
    return True


def _introduce(results: Results) -> Iterator[str]:
    options = results.options
    tables = ", ordinary page tables" if options.ordinary else ""
    yield (
        f"Linux {results.kernel}: {options.processes} processes for {options.seconds:g} s, "
        f"seed {options.seed}{tables}"
    )
    words = {"pages": "files with versions", "storm": "files without locks", "guard": "protection"}
    for role, names in results.files.items():
        yield f"{words[role]}: {', '.join(names)}"
    for line in results.pressure:
        yield f"pressure: {line}"
    for line in results.unused:
        yield f"not used: {line}"


@dataclass
class _Member:
    """A worker process.

    :param killed: we have killed it
    :param operation: the last one that was seen under way
    :param since: when it was seen first
    """

    pid: int
    killed: bool = False
    operation: tuple[int, int] = (0, 0)
    since: float = 0.0


class _Crew:
    """The processes of a run."""

    def __init__(
        self, setup: Setup, control: Control, results: Results, group: pressure.Group | None, limit: int
    ) -> None:
        self._setup = setup
        self._control = control
        self._results = results
        self._group = group
        self._limit = limit
        self._numbers = random.Random(f"{setup.seed}/supervisor")
        self._members: dict[int, _Member] = {}
        self._hog = 0
        self._start = self._look = time.monotonic()

    def work(self, seconds: float, say: Callable[[str], object]) -> None:
        """Let the processes work, kill some and start them again.

        :raises _Failure: one has found something wrong
        """
        gc.collect()
        gc.freeze()
        self._start = time.monotonic()
        for number in range(self._setup.processes):
            self._begin(number)
        kill = report = self._start
        while (now := time.monotonic()) < self._start + seconds:
            self._attend()
            if now >= kill:
                kill = now + self._numbers.expovariate(1 / _KILL)
                member = self._members[self._numbers.randrange(self._setup.processes)]
                if now - self._start > 1 and not member.killed:
                    member.killed = True
                    os.kill(member.pid, signal.SIGKILL)
                    self._results.killed += 1
            if now >= report + 10:
                report = now
                self.count()
                say(
                    f"{now - self._start:6.0f} s {sum(self._results.operations.values()):10,} operations "
                    f"{self._results.verified:12,} pages verified {self._results.killed:5,} killed"
                )
            time.sleep(0.02)

    def end(self) -> None:
        """Have all processes end by themselves.

        :raises _Failure: one did not, or has found something wrong
        """
        self._control.finish()
        deadline = time.monotonic() + _HUNG
        while self._members:
            self._attend()
            if time.monotonic() > deadline:
                number = next(iter(self._members))
                raise self._failure(number, "it does not end")
            time.sleep(0.01)

    def kill(self) -> None:
        """No process is left."""
        with signals.uninterrupted():
            pids = [member.pid for member in self._members.values()] + ([self._hog] if self._hog else [])
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            # Those and their children, which die with them.
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()
            self._members = {}
            self._hog = 0

    def count(self) -> None:
        """Take the counts into the results."""
        names = [kind.name for kind in kinds()]
        total = dict.fromkeys(names, 0)
        for number in range(2 * self._setup.processes):
            for name, count in zip(names, self._control.counts(number), strict=True):
                total[name] += count
        self._results.operations = total
        self._results.verified = sum(self._control.verified)

    def _begin(self, number: int) -> None:
        """Start a process."""
        # A child must not unwind what is its parent's, so it is never without a mask or handlers of its own.
        with signals.uninterrupted():
            pid = os.fork()
            if pid == 0:
                live(self._setup, self._control, number)
            self._members[number] = _Member(pid, since=time.monotonic())

    def _attend(self) -> None:
        """See who has ended, and who does not get on."""
        if self._group and not self._hog and not self._control.stop:
            with signals.uninterrupted():
                self._hog = pressure.hog(self._group, self._limit, f"{self._setup.seed}/hog")
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self._ended(pid, os.waitstatus_to_exitcode(status))
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + _LOOK
        for number, member in self._members.items():
            log = self._control.log(number)
            last = (self._control.lives[number], log[-1].number if log else -1)
            if last != member.operation:
                member.operation, member.since = last, now
            elif now - member.since > _HUNG:
                raise self._failure(number, f"it does not get on:\n{_where(member.pid)}")

    def _ended(self, pid: int, code: int) -> None:
        """A process has ended: start it again, if it is not to be so for ever."""
        if pid == self._hog:
            self._hog = 0
            return
        number = next((number for number, member in self._members.items() if member.pid == pid), None)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        if number is None:  # a child whose parent was killed, or the child of a child
            places = [at for at, known in enumerate(self._control.pids) if known == pid]
            if code not in (0, REFUSED, -signal.SIGKILL):
                raise self._failure(places[0] if places else 0, f"child {pid} ended by {how}")
            return
        member = self._members.pop(number)
        if code == FAILED or (code and not (member.killed and code == -signal.SIGKILL)):
            raise self._failure(number, f"process {pid} ended by {how}")
        self._control.pids[number] = 0
        self._wait_for_child(self._setup.processes + number)
        if not self._control.stop:
            self._control.lives[number] += 1
            self._begin(number)

    def _wait_for_child(self, place: int) -> None:
        """The child of a process that is gone uses the place that the next one's will use."""
        pid = self._control.pids[place]
        self._control.pids[place] = 0
        if pid:
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                if code not in (0, -signal.SIGKILL):
                    raise self._failure(place, f"child {pid} ended with {code}")

    def _failure(self, number: int, what: str) -> _Failure:
        """All that is to be known about a process that has found something wrong."""
        lines = [f"process {number} (seed {self._setup.seed}, life {self._control.lives[number]}): {what}"]
        for place in range(2 * self._setup.processes):
            if text := self._control.failure(place):
                lines.append(f"process {place} says: {text}")
        crash = os.pread(self._setup.crash, 16384, 0).decode(errors="replace").strip()
        if crash:
            lines.append(f"Python says:\n{crash}")
        if self._group and self._group.kills():
            lines.append(f"killed for want of memory in the control group: {self._group.kills()}")
        lines.append(f"the last operations of process {number}:")
        lines += self._tail(number, _TAIL)
        lines.append("what the others did last:")
        for place in range(2 * self._setup.processes):
            if place != number:
                lines += self._tail(place, 2)
        return _Failure("\n".join(lines))

    def _tail(self, number: int, count: int) -> Iterator[str]:
        names = [kind.name for kind in kinds()]
        outcomes = {DONE: "", SKIPPED: "skipped"}
        for entry in self._control.log(number)[-count:]:
            seconds = entry.time / 1e9 - self._start
            words = f"  {seconds:10.6f} s  process {number:3} #{entry.number:<6} {names[entry.kind]:22}"
            if entry.file >= 0:
                words += f" file {entry.file}"
            if entry.access >= 0:
                words += f" {CLASSES[entry.access].name}"
            words += f" page {entry.page} at {entry.address:#x} {entry.more:#x}"
            yield f"{words} {outcomes.get(entry.outcome, 'NOT DONE')}".rstrip()


def _where(pid: int) -> str:
    """Where in the kernel a process is."""
    lines = []
    for name in ("status", "wchan", "stack"):
        with contextlib.suppress(OSError):
            lines.append(Path(f"/proc/{pid}/{name}").read_text().strip())
    return "\n".join(lines)


def _last_look(setup: Setup, control: Control, made: Files) -> None:
    """Every page of every file, first as it is in memory, then, for ext4, as it is on the disk."""
    for file in made.all:
        _look(setup, control, file)
    try:
        again = made.remount()
    except CannotRunError as error:
        raise _Failure(f"all processes are gone, but something holds the file system: {error}") from None
    for file in again:
        _look(setup, control, file, "after mounting again")


def _look(setup: Setup, control: Control, file: File, when: str = "at the end") -> None:
    fd = file.open(write=False)
    try:
        size = os.fstat(fd).st_size
        for page in range(file.pages):
            data = os.pread(fd, PAGE, page * PAGE)
            constant = content.content(file.number, page, content.CONSTANT, setup.run)
            if file.role == "guard":
                right = data[:GUARDED_HALF] == constant[:GUARDED_HALF]
            elif file.role == "storm":
                pages = [constant[: len(data)], bytes(len(data))]
                right = content.consists_of(data, pages)
            else:
                versions = {control.current[file.number][page], control.announced[file.number][page]}
                pages = [content.content(file.number, page, version, setup.run) for version in versions]
                right = content.consists_of(data, pages) if data else page * PAGE >= size
            if not right:
                expected = (
                    "" if file.role != "pages" else f", not {' or '.join(map(content.describe, pages))}"
                )
                raise _Failure(
                    f"{when} file {file.number} ({file.name}) page {page} of {size // PAGE} holds "
                    f"{content.describe(data) if data else 'nothing'}{expected} (seed {setup.seed})"
                )
    finally:
        os.close(fd)

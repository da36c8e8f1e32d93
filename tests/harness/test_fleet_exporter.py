# SPDX-License-Identifier: MIT
"""The audit's metrics through Debian's node_exporter and Prometheus, and whether the dashboard and the alerts
in contrib/ ask for what comes out there.

Both programs are fetched by apt (27 MB) and unpacked in the cache, not installed. They run on loopback alone.
"""

import contextlib
import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from ptshare.audit.prometheus import LABELS
from ptshare.lab import packages

CONTRIB = Path(__file__).parents[2] / "contrib"
DASHBOARD = CONTRIB / "grafana/ptshare.json"
RULES = CONTRIB / "prometheus/ptshare.rules.yml"
PTSHARE = Path(sys.executable).parent / "ptshare"

#: Seconds that anything may take on a loaded machine.
PATIENCE = 90.0
PAGE = mmap.PAGESIZE
GRANULE = PAGE // 8 * PAGE

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

#: Maps files that it inherits, a page of each granule, tells so and waits for the end of its input. Its name
#: is the first argument, in hexadecimal digits.
MAPPER = """
import contextlib, ctypes, mmap, os, sys
name, *fds = sys.argv[1:]
ctypes.CDLL(None).prctl(15, ctypes.c_char_p(bytes.fromhex(name)), 0, 0, 0)
kept = []
for fd in map(int, fds):
    memory = mmap.mmap(fd, 0)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    for address in range(0, len(memory), mmap.PAGESIZE // 8 * mmap.PAGESIZE):
        memory[address] = 1
    kept.append(memory)
print("mapped", flush=True)
sys.stdin.read()
"""


def memfd(name: bytes, granules: int) -> int:
    # Python's own takes no bytes that are not UTF-8 but by its way of writing them.
    fd = os.memfd_create(os.fsdecode(name), 0)
    os.ftruncate(fd, granules * GRANULE)
    return fd


@contextlib.contextmanager
def mappers(count: int, name: bytes, fds: Sequence[int]) -> Iterator[None]:
    """So many processes of that name, which have the files mapped."""
    command = [sys.executable, "-c", MAPPER, name.hex(), *map(str, fds)]
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds)
            )
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"mapped\n"
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str) -> str:
    # Proxies of the environment are not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


@contextlib.contextmanager
def server(command: Sequence[str | Path], url: str, log: IO[bytes]) -> Iterator[None]:
    """A program that answers at a URL."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                said = Path(log.name).read_text(errors="replace")
                assert process.poll() is None, said
                with contextlib.suppress(OSError):
                    get(url)
                    break
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def samples(text: str) -> Samples:
    """What an exporter says. Labels are unescaped in one go, so that a backslash before another is one."""
    found: Samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)', line)
        assert match, line
        labels = {
            name: re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), value)
            for name, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")
        }
        key = (match[1], frozenset(labels.items()))
        assert key not in found, line
        found[key] = float(match[3])
    return found


def one(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def audit(directory: Path, *options: str) -> Samples:
    """Audit this machine as the timer does; what is in the file then."""
    path = directory / "ptshare.prom"
    result = subprocess.run(
        [PTSHARE, "audit", "--prometheus", path, *options], capture_output=True, text=True, timeout=PATIENCE
    )
    # 3: some process of this machine is closed even to whoever runs the tests.
    assert result.returncode in (0, 3), result.stderr
    return samples(path.read_text())


class Exporter:
    """A node_exporter, and the directory that it reads."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address

    def scrape(self) -> str:
        return get(f"http://{self.address}/metrics")

    def ours(self) -> Samples:
        """Our metrics, read without an error."""
        found = samples(self.scrape())
        assert one(found, "node_textfile_scrape_error") == 0
        return {key: value for key, value in found.items() if key[0].startswith("ptshare_")}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """With the textfile collector, and that of /proc/meminfo, which an alert compares with."""
    root = packages.fetch("prometheus-node-exporter", say=print)
    base = tmp_path_factory.mktemp("exporter")
    directory = base / "collected"
    directory.mkdir()
    address = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        root / "usr/bin/prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={directory}",
        "--collector.meminfo",
        "--web.disable-exporter-metrics",
        f"--web.listen-address={address}",
    ]
    with open(base / "log", "wb") as log, server(command, f"http://{address}/metrics", log):
        yield Exporter(directory, address)


@pytest.fixture(scope="module")
def prometheus_programs() -> Path:
    return packages.fetch("prometheus", say=print) / "usr/bin"


def test_values_come_through(exporter: Exporter) -> None:
    fd = memfd(b"ptshare-fleet", 8)
    try:
        with mappers(4, b"fleet-mapper", [fd]):
            written = audit(exporter.directory)
            found = exporter.ours()
    finally:
        os.close(fd)
    assert found == written
    what = {"kind": "memfd", "object": "/memfd:ptshare-fleet (deleted)"}
    assert one(found, "ptshare_object_page_tables_bytes", **what) == 4 * 8 * PAGE
    assert one(found, "ptshare_object_duplicate_bytes", **what) == 3 * 8 * PAGE
    assert one(found, "ptshare_object_huge_pages_bytes", **what) == 4 * 8 * PAGE
    assert one(found, "ptshare_object_mappers", **what) == 4
    assert one(found, "ptshare_command_page_tables_bytes", command="fleet-mapper") > 4 * 8 * PAGE
    assert one(found, "ptshare_page_tables_duplicate_bytes") >= 3 * 8 * PAGE
    assert abs(one(found, "ptshare_audit_time_seconds") - time.time()) < PATIENCE
    assert {name for _, labels in found for name, _ in labels} == {"kind", "object", "command"}
    # Four processes, and nothing that tells them apart.
    told = {value for _, labels in found for _, value in labels if "fleet-mapper" in value}
    assert told == {"fleet-mapper"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b'say "yes"', r'say "yes"'),
        (b"back\\slash\\n", r"back\slash\n"),
        (b"two\nlines", r"two\nlines"),
        (b"\xff\xfe\x80", r"\xff\xfe\x80"),
        ("größe €".encode(), "größe €"),
        (b'",object="', r'",object="'),
    ],
    ids=["quotes", "backslashes", "newline", "bytes", "umlauts", "injection"],
)
def test_odd_names_come_through(exporter: Exporter, name: bytes, shown: str) -> None:
    fd = memfd(name, 20)
    try:
        with mappers(2, name, [fd]):
            written = audit(exporter.directory)
            found = exporter.ours()
    finally:
        os.close(fd)
    assert found == written
    what = {"kind": "memfd", "object": f"/memfd:{shown} (deleted)"}
    assert one(found, "ptshare_object_page_tables_bytes", **what) == 2 * 20 * PAGE
    assert one(found, "ptshare_command_page_tables_bytes", command=shown) > 2 * 20 * PAGE


def test_label_sets_are_bounded(exporter: Exporter) -> None:
    fds = [memfd(b"bounded-%d" % index, 1) for index in range(100)]
    try:
        with contextlib.ExitStack() as stack:
            for index in range(25):
                stack.enter_context(mappers(1, b"bounded-%d" % index, fds))
            written = audit(exporter.directory)
            found = exporter.ours()
    finally:
        for fd in fds:
            os.close(fd)
    assert found == written
    sets: dict[str, int] = {}
    for name, _ in found:
        sets[name] = sets.get(name, 0) + 1
    assert sets["ptshare_object_page_tables_bytes"] == LABELS == 20
    assert sets["ptshare_command_page_tables_bytes"] == LABELS
    assert max(sets.values()) == LABELS
    # What has no label set of its own is in that of the others: no table is lost.
    tables = {
        labels: value for (name, labels), value in found.items() if name.startswith("ptshare_object_pa")
    }
    assert sum(tables.values()) >= 100 * 25 * PAGE
    assert tables[frozenset({("kind", "other"), ("object", "")})] >= 81 * 25 * PAGE


def test_a_file_that_is_replaced_is_always_whole(exporter: Exporter) -> None:
    names = {name for name, _ in audit(exporter.directory)}
    path = exporter.directory / "ptshare.prom"
    command: list[str | Path] = [PTSHARE, "audit", "--prometheus", path, "--watch", "0.1", "--no-physical"]
    times: set[float] = set()
    scrapes = 0
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while len(times) < 8 or scrapes < 150:
                assert time.monotonic() < deadline, (len(times), scrapes)
                found = exporter.ours()
                assert {name for name, _ in found} == names
                times.add(one(found, "ptshare_audit_time_seconds"))
                scrapes += 1
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
    # Nothing else is left there for the collector to find.
    assert sorted(os.listdir(exporter.directory)) == ["ptshare.prom"]


def test_promtool_has_no_complaint(exporter: Exporter, prometheus_programs: Path) -> None:
    audit(exporter.directory)
    for arguments, text in (
        (["metrics"], (exporter.directory / "ptshare.prom").read_bytes()),
        (["rules", "--lint-fatal", RULES], b""),
    ):
        command = [prometheus_programs / "promtool", "check", *arguments]
        result = subprocess.run(command, input=text, capture_output=True, timeout=PATIENCE)
        said = (result.stdout + result.stderr).decode()
        assert result.returncode == 0, said
        assert arguments != ["metrics"] or said == ""


# The dashboard and the alerts


def dashboard_expressions() -> list[str]:
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "expr":
                    found.append(inner)
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(json.loads(DASHBOARD.read_text()))
    return found


def rule_expressions() -> list[str]:
    return re.findall(r"^ +expr: (.+)$", RULES.read_text(), re.MULTILINE)


def asked_labels(text: str) -> set[str]:
    """Labels that expressions select or group by, and that legends and texts of alerts name."""
    found = re.findall(r"\{\{ ?(?:\$labels\.)?([a-z]\w*) ?\}\}", text)
    for braces in re.findall(r"[a-z_]\{([^{}]*)\}", text):
        found += re.findall(r"(\w+) ?(?:=~|!~|!=|=)", braces)
    for group in re.findall(r"\b(?:by|without|on|ignoring) ?\(([^)]*)\)", text):
        found += re.findall(r"\w+", group)
    return set(found)


#: Words of the language that the expressions use.
WORDS = {"sum", "max", "topk", "by", "time", "or"}


def asked_metrics(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", expression)
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - WORDS


def test_dashboard_and_alerts_ask_for_what_there_is(exporter: Exporter) -> None:
    audit(exporter.directory)
    found = samples(exporter.scrape())
    names = {name for name, _ in found}
    # Two that Prometheus adds.
    labels = {name for _, labels in found for name, _ in labels} | {"instance", "job"}
    rules = rule_expressions()
    assert len(rules) == RULES.read_text().count("alert:") > 0
    board = json.loads(DASHBOARD.read_text())
    variables = [variable.get("definition", "") for variable in board["templating"]["list"]]
    queried = [match[1] for text in variables if (match := re.fullmatch(r"label_values\((.*), \w+\)", text))]
    assert len(queried) == 1
    expressions = [*dashboard_expressions(), *rules, *queried]
    assert {name for text in expressions for name in asked_metrics(text)} <= names
    # Each of ours is shown somewhere.
    assert {name for name in names if name.startswith("ptshare_")} <= {
        name for text in dashboard_expressions() for name in asked_metrics(text)
    }
    legends = [target["legendFormat"] for panel in board["panels"] for target in panel["targets"]]
    for text in (*expressions, *legends, RULES.read_text()):
        assert asked_labels(text) <= labels, text


def test_dashboard_is_one() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        new = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in new) < 24
        assert not new & cells, panel["title"]
        cells |= new
        for thing in (panel, *panel["targets"]):
            assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["expr"].count("{") == target["expr"].count('instance=~"$instance"') > 0


@pytest.fixture
def query(
    exporter: Exporter, prometheus_programs: Path, tmp_path: Path
) -> Iterator[Callable[[str, str], Any]]:
    """Asks a Prometheus that scrapes the exporter each second and has the rules."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [exporter.address]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # which is YAML, too
    command: list[str | Path] = [
        prometheus_programs / "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={address}",
    ]

    def ask(path: str, text: str = "") -> Any:
        parameters = urllib.parse.urlencode({"query": text}) if text else ""
        try:
            return json.loads(get(f"http://{address}/api/v1/{path}?{parameters}"))["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{text}: {error.read().decode()}") from None

    with open(tmp_path / "log", "wb") as log, server(command, f"http://{address}/-/ready", log):
        yield ask


def test_prometheus_answers_each_question(exporter: Exporter, query: Callable[[str, str], Any]) -> None:
    fd = memfd(b"ptshare-asked", 8)
    try:
        with mappers(2, b"asked", [fd]):
            audit(exporter.directory)
    finally:
        os.close(fd)
    deadline = time.monotonic() + PATIENCE

    def answered(text: str) -> bool:
        """What was scraped has an answer: perhaps not at once, nor after a scrape that took too long."""
        while not query("query", text)["result"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    assert answered("ptshare_page_tables_bytes")
    for text in dashboard_expressions():
        assert answered(text.replace("$instance", ".*")), text
        assert not query("query", text.replace("$instance", "no-such-host"))["result"], text
    for text in rule_expressions():
        # Without the comparisons, which fail on a host where all is well.
        assert answered(re.sub(r" > [\d.]+", "", text)), text
    while True:
        (group,) = query("rules", "")["groups"]
        if all(rule["health"] == "ok" for rule in group["rules"]):
            break
        assert time.monotonic() < deadline, group
        time.sleep(0.2)
    assert not [rule["lastError"] for rule in group["rules"] if rule.get("lastError")]


def test_alerts_go_off(prometheus_programs: Path, tmp_path: Path) -> None:
    """Where they should, and not on a host where all is well."""

    def host(name: str, duplicate: str, made: str, unread: str, partial: str) -> list[dict[str, str]]:
        values = {
            "ptshare_page_tables_duplicate_bytes": duplicate,
            "node_memory_MemTotal_bytes": "1000x300",
            "ptshare_audit_time_seconds": made,
            "ptshare_audit_unread_processes": unread,
            "ptshare_audit_partial": partial,
            "node_textfile_scrape_error": "0x300",
        }
        return [
            {"series": f'{metric}{{instance="{name}",job="node"}}', "values": value}
            for metric, value in values.items()
        ]

    lately, once = "0+60x300", "0x300"
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    *host("well", "50x300", lately, once, once),
                    *host("large", "51x300", lately, once, once),
                    *host("stale", "0x300", once, once, once),
                    *host("unread", "0x300", lately, "2x300", once),
                    *host("partial", "0x300", lately, once, "1x300"),
                ],
                "promql_expr_test": [
                    {
                        "expr": f'ALERTS{{alertstate="{state}"}}',
                        "eval_time": when,
                        "exp_samples": [
                            {
                                "labels": f'ALERTS{{alertname="{alert}",alertstate="{state}",'
                                f'instance="{instance}",job="node",severity="{severity}"}}',
                                "value": 1,
                            }
                            for alert, instance, severity in alerts
                        ],
                    }
                    for when, state, alerts in (
                        ("28m", "firing", []),
                        ("59m", "firing", [("PageTableAuditStale", "stale", "warning")]),
                        (
                            "61m",
                            "firing",
                            [
                                ("PageTablesDuplicate", "large", "warning"),
                                ("PageTableAuditStale", "stale", "warning"),
                                ("PageTableAuditPartial", "unread", "info"),
                                ("PageTableAuditPartial", "partial", "info"),
                            ],
                        ),
                    )
                ],
            }
        ],
    }
    path = tmp_path / "alerts.yml"
    path.write_text(json.dumps(tests))
    command: list[str | Path] = [prometheus_programs / "promtool", "test", "rules", path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr

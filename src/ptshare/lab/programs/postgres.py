# SPDX-License-Identifier: MIT
"""A PostgreSQL cluster of one's own: made, started, asked, stopped."""

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pg8000.exceptions
import pg8000.native

from ptshare.lab.programs import NOBODY

__all__ = ["BIN", "Cluster", "Connection", "QueryError"]

#: Where Debian has the server's programs.
BIN = Path("/usr/lib/postgresql/15/bin")

#: For a cluster that lives as long as a test. What is written need not survive the machine.
_SETTINGS = {
    "huge_pages": "off",
    "shared_buffers": "1GB",
    "max_connections": "120",
    "listen_addresses": "''",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    "jit": "off",
    # One backend a scan, from the table's first page on.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
    "bgwriter_lru_maxpages": "0",
    # The guest has four processors and they are emulated: nothing is late because it is broken.
    "authentication_timeout": "10min",
}

_PORT = 5432
#: Seconds that any one step may take, with much to spare: an emulated machine on a busy host.
_PATIENCE = 240


class QueryError(Exception):
    """The server refused a query, or the connection ended; the text is the server's."""


class Connection:
    """One connection and its backend, over a Unix socket.

    :param directory: where the server's socket is
    :raises OSError: nobody listens there
    :raises QueryError: the server does not let us in
    """

    def __init__(self, directory: Path, database: str = "postgres") -> None:
        path = str(directory / f".s.PGSQL.{_PORT}")
        with _told():
            # By default it reads all of the machine's certificates first, for each connection: half a second
            # where processors are emulated.
            self._connection = pg8000.native.Connection(
                "postgres", database=database, unix_sock=path, timeout=_PATIENCE, ssl_context=False
            )
        #: A query may be under way while the caller goes on, with another one.
        self._worker = ThreadPoolExecutor(1)
        self._answer: Future[list[tuple[str | None, ...]]] | None = None
        #: The backend's process.
        self.pid = int(self.value("SELECT pg_backend_pid()"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and so the backend."""
        self._worker.shutdown()
        with contextlib.suppress(pg8000.exceptions.InterfaceError, OSError):  # the server has
            self._connection.close()

    def send(self, sql: str) -> None:
        """Have the backend begin; :meth:`result` waits for what comes of it."""
        self._answer = self._worker.submit(self.query, sql)

    def result(self) -> list[tuple[str | None, ...]]:
        """The rows of what :meth:`send` began.

        :raises QueryError: as :meth:`query`
        """
        assert self._answer is not None
        return self._answer.result()

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """The rows of a query, each value as text.

        :raises QueryError: the server refused it, or ended the connection
        """
        with _told():
            rows = self._connection.run(sql) or []
        return [tuple(None if value is None else str(value) for value in row) for row in rows]

    def value(self, sql: str) -> str:
        """The only value of a query's only row, as text."""
        ((value,),) = self.query(sql)
        assert value is not None
        return value


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """One exception for whatever a server's end looks like."""
    try:
        yield
    except pg8000.exceptions.DatabaseError as error:
        raise QueryError(str(error)) from None
    except (pg8000.exceptions.InterfaceError, struct.error, BrokenPipeError, ConnectionError) as error:
        raise QueryError(f"the server ended the connection: {error}") from None


class Cluster:
    """A cluster in ``directory``, which must be empty and in a place that any user may enter.

    It trusts who comes, and it listens on a Unix socket in ``directory`` only.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "log"
        os.chown(directory, NOBODY, NOBODY)
        self._run(
            BIN / "initdb",
            "-D",
            self.data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "-N",
            "--no-locale",
            "-E",
            "UTF8",
        )
        settings = {**_SETTINGS, "unix_socket_directories": f"'{directory}'"}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start(self, *front: str) -> None:
        """Start the server and wait until it answers.

        :param front: command and arguments that are to start it, such as ``ptshare run --``; default: none
        :raises RuntimeError: it does not start; with what it said
        """
        self._run(
            *front, BIN / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", str(_PATIENCE), "start"
        )

    def start_in_foreground(self, *front: str) -> subprocess.Popen[bytes]:
        """Start the server as a child of this process, as a service manager does. It may not answer yet."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*front, BIN / "postgres", "-D", self.data],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_as_nobody(self.directory),
            )

    def stop(self) -> None:
        """Stop the server, with its backends."""
        self._run(BIN / "pg_ctl", "-D", self.data, "-m", "fast", "-w", "-t", str(_PATIENCE), "stop")

    @property
    def running(self) -> bool:
        """There is a server, or what a crash has left."""
        return (self.data / "postmaster.pid").exists()

    @property
    def postmaster(self) -> int:
        """The server's first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def connect(self, database: str = "postgres") -> Connection:
        """A new connection."""
        return Connection(self.directory, database)

    def make_filler(self, connection: Connection, pages: int) -> None:
        """Make the table ``filler`` of so many pages of 8 KiB, with one row on each.

        Its column ``id`` counts from 1 in the order of the pages. A scan reads all pages and computes little.
        """
        connection.query(
            "BEGIN; CREATE TABLE filler (id int, body text) WITH (fillfactor = 10); "
            "ALTER TABLE filler ALTER body SET STORAGE PLAIN; "
            # Two rows of this length are more than 10 % of a page.
            f"INSERT INTO filler SELECT n, repeat('x', 400) FROM generate_series(1, {pages}) n; COMMIT"
        )
        connection.query("VACUUM (FREEZE) filler")
        found = connection.value("SELECT pg_relation_size('filler') / 8192")
        if found != str(pages):
            raise RuntimeError(f"the table was to have {pages} pages and has {found}: not a row a page")

    def pgbench(self, *arguments: str) -> str:
        """Run pgbench as its manual says; its output."""
        return self._run(BIN / "pgbench", "-h", self.directory, "-U", "postgres", *arguments, "postgres")

    def remove(self) -> None:
        """Stop the server if it runs, and delete the files."""
        if self.running:
            self.stop()
        for path in (self.data, self.log):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _run(self, *command: str | Path) -> str:
        return run_as_nobody(command, self.directory, log=self.log)


def _as_nobody(directory: Path) -> dict[str, Any]:
    """Arguments of subprocess.run."""
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(directory)}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": (), "env": env}


def run_as_nobody(command: Sequence[str | Path], directory: Path, log: Path) -> str:
    """The output of a command of the servers' user."""
    # Into a file: a server that the command leaves behind would hold a pipe open.
    with (directory / "output").open("w+") as output:
        result = subprocess.run(
            [str(word) for word in command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **_as_nobody(directory),
            timeout=_PATIENCE + 60,
        )
        output.seek(0)
        text = output.read()
    if result.returncode:
        said = log.read_text() if log.exists() else ""
        raise RuntimeError(f"{command} ended with {result.returncode}:\n{text}\n{said[-4000:]}")
    return text

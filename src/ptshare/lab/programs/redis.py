# SPDX-License-Identifier: MIT
"""A Redis server of one's own: started, loaded, asked, stopped."""

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from ptshare.lab.programs import NOBODY

__all__ = ["BENCHMARK", "Server"]

SERVER = Path("/usr/bin/redis-server")
BENCHMARK = Path("/usr/bin/redis-benchmark")

#: Seconds that any one step may take, with much to spare: an emulated machine on a busy host.
_PATIENCE = 120


class Server:
    """A server that keeps its dump in ``directory`` and writes one only when it is asked to.

    A context manager: at its end the server is gone.

    :param front: command and arguments that are to start it, such as ``ptshare run --``
    :raises RuntimeError: it does not start; with what it said
    """

    def __init__(self, directory: Path, *front: str) -> None:
        self.socket = directory / "redis.sock"
        self._log = directory / "redis.log"
        os.chown(directory, NOBODY, NOBODY)
        options: list[str | Path] = [
            "--port",
            "0",
            "--unixsocket",
            self.socket,
            "--dir",
            directory,
            "--logfile",
            self._log,
        ]
        options += ["--save", "", "--daemonize", "no", "--enable-debug-command", "local"]
        self._process = subprocess.Popen(
            [*front, SERVER, *options],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
        )
        try:
            self._wait_until_loaded()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def client(self) -> "redis.Redis":
        """A new connection."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=_PATIENCE, decode_responses=True)

    def info(self, name: str) -> Any:
        """A field of the command INFO."""
        with self.client() as client:
            return client.info("everything")[name]

    def digest(self) -> Any:
        """A checksum of all keys and values."""
        with self.client() as client:
            return client.execute_command("DEBUG", "DIGEST")

    def benchmark(self, *arguments: str) -> subprocess.Popen[str]:
        """redis-benchmark, running, as its manual says; its output is in CSV."""
        return subprocess.Popen(
            [BENCHMARK, "-s", self.socket, "--csv", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def background_save(self) -> None:
        """BGSAVE, until the process that writes the dump has ended.

        :raises redis.RedisError: there is one already, or it failed
        """
        with self.client() as client:
            client.bgsave()
        deadline = time.monotonic() + _PATIENCE
        while self.info("rdb_bgsave_in_progress"):
            if time.monotonic() > deadline:
                raise redis.RedisError(f"BGSAVE takes more than {_PATIENCE} seconds")
            time.sleep(0.05)
        if (status := self.info("rdb_last_bgsave_status")) != "ok":
            raise redis.RedisError(f"BGSAVE: {status}")

    def shut_down(self) -> None:
        """Save and end.

        :raises RuntimeError: it ended otherwise; with what it said
        """
        with self.client() as client:
            client.shutdown(save=True)
        if self._process.wait(_PATIENCE):
            raise RuntimeError(f"redis-server ended with {self._process.returncode}:\n{self._said()}")

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        self._process.kill()
        self._process.wait()

    def _wait_until_loaded(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                time.sleep(0.05)
        raise RuntimeError(f"redis-server does not answer:\n{self._said()}")

    def _said(self) -> str:
        return self._log.read_text()[-4000:] if self._log.exists() else "no message"

# SPDX-License-Identifier: MIT
"""A gunicorn of one's own, with an application that it loads before it makes its workers."""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Server"]

_ADDRESS, _PORT = "127.0.0.1", 8000
#: Seconds that any one step may take, with much to spare: an emulated machine on a busy host.
_PATIENCE = 120


class Server:
    """gunicorn with ``workers`` synchronous workers on the loopback interface.

    A context manager: at its end the server is gone.

    :param directory: for its files
    :param module: the file of the application, which is its ``app``
    :param env: variables for it
    :raises RuntimeError: it does not start; with what it said
    """

    def __init__(self, directory: Path, module: Path, workers: int, env: Mapping[str, str]) -> None:
        self.workers = workers
        self._log = directory / "gunicorn.log"
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(workers)]
        command += ["--bind", f"{_ADDRESS}:{_PORT}", "--timeout", str(_PATIENCE), "--graceful-timeout", "10"]
        command += ["--worker-tmp-dir", "/dev/shm", "--pythonpath", str(module.parent), f"{module.stem}:app"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **env},
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The workers' processes."""
        text = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def get(self, path: str) -> str:
        """The body of the answer.

        :raises RuntimeError: the status is not 200
        """
        connection = http.client.HTTPConnection(_ADDRESS, _PORT, timeout=_PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}: {body}")
        return body

    def get_from_all(self, path: str) -> dict[int, str]:
        """Worker -> answer. Answers begin with the worker's process; all are asked until each has answered.

        :raises RuntimeError: one does not
        """
        found: dict[int, str] = {}
        deadline = time.monotonic() + _PATIENCE
        with ThreadPoolExecutor(self.workers) as threads:
            while len(found.keys() & set(self.pids)) < self.workers:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"of {self.workers} workers only {sorted(found)} answer:\n{self._said()}"
                    )
                for answer in threads.map(self.get, [path] * self.workers):
                    pid, _, rest = answer.partition(" ")
                    found[int(pid)] = rest
        return found

    def stop(self) -> None:
        """End it, with its workers."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.get("/entry/0")
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"gunicorn does not answer:\n{self._said()}")

    def _said(self) -> str:
        return self._log.read_text()[-4000:]

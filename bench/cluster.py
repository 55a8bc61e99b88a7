"""Two machines of the forwarder behind nginx, which share a PostgreSQL database and a Redis.

A machine is a gunicorn with a port, a directory and a process group of its own. Everything runs on
loopback. nginx has the configuration of `deploy/nginx.conf`, with other addresses.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import make_forwarder_environment
from bench.processes import ROOT, ServerProcess, make_environment, run_server, stop_process
from forwarder.config import gunicorn_conf
from tests.helpers.certificates import Authority
from tests.live.postgres import run_postgres
from tests.live.redis import run_redis
from tests.live.server import find_free_port

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
NGINX_CONFIG = ROOT / "deploy" / "nginx.conf"
HOST = "localhost"
"""The name in the certificate of nginx."""

ADMIN_KEY = "sk-bench-admin"
_TIMEOUT_SECONDS = 60
"""Seconds until a started process must answer."""

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Modules of nginx that need a folder for temporary files."""


@dataclass
class Machine:
    """A forwarder that can be killed and started again."""

    name: str
    port: int
    folder: Path
    workers: int
    environment: dict[str, str]
    is_up: bool = False
    starts: int = 0
    _server: ServerProcess | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the machine, and return when it answers."""
        self.starts += 1
        module = ["gunicorn", "-c", gunicorn_conf.__file__, "-w", str(self.workers)]
        module += ["-b", "fd://{fd}", "forwarder.wsgi:app"]
        directory = self.folder / self.name
        directory.mkdir(exist_ok=True)
        self._server = self._stack.enter_context(
            run_server(
                f"{self.name}-{self.starts}",
                module,
                self.folder,
                {**self.environment, "PYTHONPATH": str(ROOT)},
                directory,
                self.port,
            )
        )
        # The first request waits in the backlog until a worker accepts it.
        urllib.request.urlopen(f"{self.url}/health", timeout=_TIMEOUT_SECONDS).close()
        self.is_up = True

    def kill(self) -> None:
        """Kill all processes at once, as a power failure does."""
        assert self._server is not None
        self.is_up = False
        os.killpg(self._server.pid, signal.SIGKILL)
        self._stack.close()

    def stop(self) -> None:
        self.is_up = False
        self._stack.close()

    def read_log_lines(self) -> list[str]:
        """Return the log lines of all its starts."""
        logs = sorted(self.folder.glob(f"{self.name}-*.log"))
        return [line for log in logs for line in log.read_text(errors="replace").splitlines()]


@dataclass(frozen=True)
class Cluster:
    """Machines that share a database and a Redis, and the address of nginx in front of them."""

    machines: list[Machine]
    url: str
    authority: Path
    database_url: str


@contextmanager
def run_cluster(provider_url: str, workers: int, folder: Path) -> Iterator[Cluster]:
    """Run two machines with the provider behind both APIs during the context."""
    with ExitStack() as stack:
        database_url = stack.enter_context(run_postgres())
        redis_url = stack.enter_context(run_redis(find_free_port(), folder))
        port = int(provider_url.rpartition(":")[2].partition("/")[0])
        shared = make_forwarder_environment(port, database_url) | {
            "FORWARDER_SECRET_KEY": "a secret of the benchmark, the same on all machines",
            "FORWARDER_RATE_LIMIT_STORAGE": redis_url,
            "FORWARDER_ADMIN_KEYS": ADMIN_KEY,
            "FORWARDER_CLIENT_KEYS": "required",
            "FORWARDER_TRUSTED_PROXIES": "1",
            "FORWARDER_LOG_LEVEL": "WARNING",
            # Redis shares the processors with all other processes here.
            "FORWARDER_RATE_LIMIT_TIMEOUT": "2",
        }
        machines = [
            Machine(
                name,
                find_free_port(),
                folder,
                workers,
                # The provider learns from which machine a request comes.
                shared | {f"{api}_HEADERS": f"X-Machine: {name}" for api in ("CHAT", "RESPONSES")},
            )
            for name in ("one", "two")
        ]
        for machine in machines:
            stack.callback(machine.stop)
            machine.start()
        authority = Authority(folder)
        authority.server(HOST)
        nginx_port = find_free_port()
        ports = [machine.port for machine in machines]
        config = write_nginx_config(folder, nginx_port, ports, folder / f"{HOST}.pem")
        stack.enter_context(run_nginx(config, nginx_port))
        url = f"https://{HOST}:{nginx_port}"
        yield Cluster(machines, url, authority.file, database_url)


# -- nginx ----------------------------------------------------------------------------------------


def write_nginx_config(folder: Path, port: int, machines: Sequence[int], certificate: Path) -> Path:
    """Write `deploy/nginx.conf` with these ports and this certificate; return the main file."""
    text = NGINX_CONFIG.read_text(encoding="utf-8")
    for pattern, addresses in (
        (r"(?<= )10\.0\.0\.\d:8000(?= )", [f"127.0.0.1:{each}" for each in machines]),
        (r"(?<=listen )443(?= ssl;)", [f"127.0.0.1:{port}"]),
        (r"/etc/ssl/forwarder/\w+\.pem(?=;)", [str(certificate)] * 2),
    ):
        text = replace_each(pattern, addresses, text)
    (folder / "forwarder.conf").write_text(text, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""  # its workers must reach the folder
    temporary = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in _TEMPORARY)
    main = folder / "nginx.conf"
    main.write_text(
        f"{user}\ndaemon off;\nworker_processes 2;\npid {folder}/nginx.pid;\n"
        "events { worker_connections 4096; }\n"
        f"http {{\n    access_log off;\n{temporary}    include {folder}/forwarder.conf;\n}}\n",
        encoding="utf-8",
    )
    return main


def replace_each(pattern: str, replacements: Sequence[str], text: str) -> str:
    """Replace each match by the next replacement; raises ValueError if their numbers differ."""
    remaining = list(replacements)
    if len(re.findall(pattern, text)) != len(remaining):
        raise ValueError(f"{pattern} does not match {len(remaining)} times in deploy/nginx.conf")
    return re.sub(pattern, lambda _: remaining.pop(0), text)


def make_nginx_command(config: Path) -> list[str]:
    """Return the command that runs nginx with this file and logs beside it."""
    if NGINX is None:
        raise FileNotFoundError("nginx is not installed (Debian: nginx-light)")
    folder = config.parent
    return [NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "nginx.log")]


@contextmanager
def run_nginx(config: Path, port: int) -> Iterator[None]:
    """Run nginx during the context."""
    process = subprocess.Popen(
        make_nginx_command(config), env=make_environment({}), start_new_session=True
    )
    try:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"nginx does not answer; see {config.parent}/nginx.log")
        yield
    finally:
        stop_process(process)

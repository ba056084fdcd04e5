"""Every setting of the service, read from ``RANKALLOC_*`` environment variables. Imports no torch, and SQLAlchemy only to
name the embedded database.

    RANKALLOC_HOME=/srv/rankalloc rankalloc serve

With nothing set, everything lives in ``./.rankalloc``: a SQLite database, a file-system queue and the
artifacts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from allocator.base.proxies import path_prefix, proxy_addresses

PREFIX = "RANKALLOC_"
Device = Literal["cpu", "cuda"]
DEVICES = get_args(Device)
Products = Literal["float32", "tf32", "bfloat16"]
QueueName = Literal["rankalloc", "rankalloc.gpu"]
_COMMAS = ("allowed_hosts", "worker_queues", "trusted_proxies")
"""Lists that are separated by commas."""


def _bundled_models() -> Path:
    """The example models: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_examples"
    return installed if installed.is_dir() else package.parent / "examples" / "models"


def _secret(file: Path, setting: str) -> str:
    """The content of a secret's file. Raises OSError that names the setting, and ValueError."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({setting})", str(file)) from None


class Settings(BaseSettings):
    """What the service, its workers and the one-shot commands are told from outside.

    Lists of folders are separated like ``PATH``. Secrets may come as files: ``RANKALLOC_DATABASE_URL_FILE``
    and ``RANKALLOC_BROKER_URL_FILE`` name a file whose content is the value.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # an empty RANKALLOC_HOME would be the folder that somebody happens to be in
        extra="ignore",
        frozen=True,
    )

    home: Path = Path(".rankalloc")
    """Data directory: database, queue, moments, artifacts, logs, models and texts of the hub."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite inside ``home``."""
    database_url_file: Path | None = None
    """A file holding ``database_url``, for secrets mounted as files."""
    broker_url: str = ""
    """Celery broker URL; empty means ``filesystem://`` inside ``home``."""
    broker_url_file: Path | None = None
    """A file holding ``broker_url``."""
    model_roots: Annotated[list[Path], NoDecode] = Field(default_factory=lambda: [_bundled_models()])
    """Folders whose sub-folders are the ``local:<name>`` models. Default: the bundled examples."""
    text_roots: Annotated[list[Path], NoDecode] = Field(default_factory=list)
    """Folders whose files are the ``text:<name>`` texts; empty means ``home/texts``."""

    lease_s: float = Field(default=30.0, gt=0)
    """How long a worker may stay silent before its item is given to another."""
    max_attempts: int = Field(default=3, ge=1)
    """How often one item may fail (job ``failed``) or lose its worker (job ``crashed``)."""
    retry_backoff_s: float = Field(default=1.0, ge=0)
    """Wait before the first retry of an item; doubles with every further one."""
    outage_s: float = Field(default=120.0, ge=0)
    """How long a worker waits for a database that does not answer, rather than lose the work at hand."""
    item_time_limit_s: int = Field(default=1800, gt=0)
    """An item that makes no progress for so long is stopped and counts as failed; while it moves there is no limit."""
    visibility_timeout_s: int = Field(default=3600, gt=0)
    """When Redis hands an unacknowledged message out again, which finds its item taken; must exceed ``item_time_limit_s``."""
    dispatch_interval_s: float = Field(default=0.2, gt=0)
    """How often items that wait for a message are looked for."""
    reconcile_interval_s: float = Field(default=2.0, gt=0)
    """How often lost leases are looked for."""
    worker_id: str = ""
    """Name under which leases are held; the supervisor sets it for its worker."""
    worker_queues: Annotated[list[QueueName], NoDecode] = Field(default_factory=list)
    """What a worker listens to, separated by commas; empty means ``rankalloc.gpu`` where ``device`` is ``cuda``, else
    ``rankalloc``. Both, on a machine whose only worker has a GPU.
    """
    worker_stop_s: float = Field(default=5.0, ge=0)
    """How long a supervised worker may finish its item when the service stops."""

    worker_pause_s: float = Field(default=30.0, gt=0)
    """Longest pause before a supervised worker that keeps dying is started again."""

    threads: int = Field(default=0, ge=0)
    """CPU threads of a worker's mathematics; 0 means all cores. Fewer beside other work: threads wait for each other."""
    layer_memory_bytes: int = Field(default=0, ge=0)
    """How much of a dense model's layers an item keeps in memory as float32; the others are read from the checkpoint
    when they are run. At least two layers. 0: 128 MiB, on ``cuda`` half of what the device has free.
    """
    moments_keep_days: float = Field(default=30.0, ge=0)
    """Intermediate results (moments) that nothing has used for so long are removed."""
    moments_keep_bytes: int = Field(default=50 << 30, ge=0)
    """How much they may take in all; beyond it those used longest ago are removed. Never those of an open job."""
    hub_limit_bytes: int = Field(default=400 << 30, gt=0)
    """Largest ``hf:`` model that a worker downloads."""
    device: Device = "cpu"
    """Where a worker's models and mathematics live. No part of content keys: units measured on either are shared."""
    products: Products = "tf32"
    """How ``cuda`` multiplies float32 matrices in passes that losses are measured by: ``float32``, ``tf32`` (10 bits of each
    factor) or ``bfloat16`` (seven). Moments, solving, KL and final figures are float32 and float64 in any case; a CPU always
    computes in float32.
    """
    log_format: Literal["text", "json"] = "text"
    """How logs are written: lines for people, or one JSON object a line for collectors."""
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """Least level of what is logged; ``info`` has a line for every request and item. Default: ``info`` for workers, ``warning``
    for ``serve``.
    """
    stalled_s: float = Field(default=600.0, gt=0)
    """When due work that no worker takes counts as stalled (``/readyz?work=true``, ``doctor``)."""
    max_body_bytes: int = Field(default=1 << 20, gt=0)
    """Largest request body the API reads."""
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["127.0.0.1", "localhost", "[::1]", "::1"]
    )
    """Names under which the API answers; anything else is refused, which stops DNS rebinding. Comma
    separated.
    """
    allow_unauthenticated_bind: bool = False
    """Let ``serve`` listen beyond loopback although nobody has to log in. For a container whose port is published on
    127.0.0.1 only; never for a network.
    """
    root_path: str = ""
    """Path under which a proxy shows the service, such as ``/rankalloc``, whether it takes that off the requests or not.
    Empty: what a trusted proxy says in ``X-Forwarded-Prefix``.
    """
    trusted_proxies: Annotated[list[str], NoDecode] = Field(default_factory=lambda: ["127.0.0.1", "::1"])
    """Addresses and networks of proxies that are believed what they say in ``X-Forwarded-For``, ``-Proto`` and ``-Prefix``;
    ``*``: any peer, where only a proxy can connect. Comma separated.
    """
    max_open_jobs: int = Field(default=200, ge=1)
    """How many jobs that have not ended a team may have; the next submission is refused with 429."""
    requests_per_minute: int = Field(default=0, ge=0)
    """How many requests a token may make per minute, with bursts of a minute's worth; 0: any number. Counted in each
    server process for itself.
    """

    @field_validator("model_roots", "text_roots", mode="before")
    @classmethod
    def _split_path(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator(*_COMMAS, mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("root_path", mode="after")
    @classmethod
    def _path_prefix(cls, value: str) -> str:
        return path_prefix(value)

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _proxy_addresses(cls, value: list[str]) -> list[str]:
        return proxy_addresses(value)

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    def model_post_init(self, _context: Any) -> None:
        """Fill what depends on other fields, so that the rest of the code reads plain values."""
        for name in ("database_url", "broker_url"):
            file: Path | None = getattr(self, f"{name}_file")
            if file is not None and not getattr(self, name):
                self.__dict__[name] = _secret(file, f"{PREFIX}{name.upper()}_FILE")
        if not self.text_roots:
            self.__dict__["text_roots"] = [self.home / "texts"]
        if self.database_url.startswith(("postgresql://", "postgres://")):
            # SQLAlchemy 2.1 and 2.0 disagree on the driver behind the bare scheme: name ours.
            self.__dict__["database_url"] = "postgresql+psycopg://" + self.database_url.split("://", 1)[1]

    @property
    def embedded_database(self) -> bool:
        """Whether the database is the SQLite file in ``home``, which the product may create and upgrade by
        itself.
        """
        return not self.database_url

    @property
    def embedded_broker(self) -> bool:
        """Whether messages are files in ``home``; then ``serve`` also runs a worker."""
        return not self.broker_url

    @property
    def sqlalchemy_url(self) -> str:
        if self.database_url:
            return self.database_url
        from sqlalchemy.engine import URL

        # Not by hand: what follows a ? or # in the home's name would be taken for options, and the file land elsewhere.
        return URL.create("sqlite", database=str(self.home / "rankalloc.db")).render_as_string()

    @property
    def moments_dir(self) -> Path:
        return self.home / "moments"

    @property
    def artifacts_dir(self) -> Path:
        return self.home / "artifacts"

    @property
    def tmp_dir(self) -> Path:
        """Attempts' scratch folders; same file system as ``artifacts_dir``, so that finished work is renamed
        over.
        """
        return self.home / "tmp"

    @property
    def partial_dir(self) -> Path:
        """What open jobs have done so far of items that take long, a folder for each job."""
        return self.home / "partial"

    @property
    def queue_dir(self) -> Path:
        return self.home / "queue"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    def prepare_home(self) -> None:
        """Create the data directory and its rooms; only its owner may look inside. Raises OSError that names the setting."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (
                *(self.moments_dir, self.artifacts_dir, self.tmp_dir),
                *(self.partial_dir, self.queue_dir, self.logs_dir),
            ):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            message = f"{error.strerror}; set {PREFIX}HOME to a folder that can be written to"
            raise OSError(error.errno, message, str(error.filename)) from None

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process. Lists as `_split_path` reads them."""
        variables = {}
        for name, value in self:
            if value is None or value == "" or getattr(self, f"{name}_file", None) is not None:
                continue  # a secret that came as a file goes on as one
            if isinstance(value, list):
                value = ("," if name in _COMMAS else os.pathsep).join(str(part) for part in value)
            variables[PREFIX + name.upper()] = str(value)
        return variables

"""What can be set: one Struct a section, each field with its unit and the reason for its default.

Secrets are never settings: a field names the file that holds one, and `FILE` marks fields whose file must be there at start. In a path,
`{resident}` stands for the process identity, so one `config.toml` serves every process. Times and sizes are whole numbers, because
the digest of the settings goes into the log.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from sigilcore.record_types import Hex64

FILE: dict[str, Any] = {"must_exist": True}


def _says(text: str, **more: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **more)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections."""


class Bus(Section, frozen=True, kw_only=True):
    """How to reach NATS and how much to have in flight."""

    url: Annotated[str, _says("nats://host:port, several with commas; never with a password", min_length=1)]
    nkey_seed_file: Annotated[Path, _says("this identity's nkey seed", extra=FILE)]
    stream_nkey_seed_file: Annotated[
        Path | None, _says("the nkey seed of the stream's keeper; for the writer, and for nobody else")
    ] = None
    ca_file: Annotated[Path | None, _says("CA that signed the server's certificate; none: no TLS")] = None
    request_timeout_s: Annotated[
        int, _says("seconds a call waits; an append at ten times the aimed load takes below one", ge=1, le=120)
    ] = 5
    max_in_flight: Annotated[
        int,
        _says("calls answered at once; beyond it BUSY, because who waits without a bound has failed", ge=1, le=65_536),
    ] = 512
    reserved_in_flight: Annotated[
        int,
        _says(
            "places beyond max_in_flight that only braking and quorum commands take (revoke, close, attest)",
            ge=0,
            le=4096,
        ),
    ] = 32
    connect_timeout_s: Annotated[int, _says("seconds for one try to connect", ge=1, le=60)] = 2
    reconnect_wait_ms: Annotated[
        int, _says("milliseconds between tries; a restarted server is found within a quarter second", ge=10, le=10_000)
    ] = 250
    drain_timeout_s: Annotated[
        int,
        _says("seconds that calls in flight have to end at stop; below a supervisor's patience of ten", ge=1, le=60),
    ] = 8


class Keystore(Section, frozen=True, kw_only=True):
    """Where this process's own keys are."""

    path: Annotated[Path, _says("the keystore's folder", extra=FILE)]
    passphrase_file: Annotated[Path, _says("holds the passphrase; 0600", extra=FILE)]


class Canon(Section, frozen=True, kw_only=True):
    """The writer's and readers' database, and what the writer remembers outside of it."""

    host: Annotated[str, _says("Postgres's host, or the folder of its socket", min_length=1)]
    port: Annotated[int, _says("Postgres's port", ge=1, le=65_535)]
    database: Annotated[str, _says("the database", min_length=1)]
    user: Annotated[str, _says("canon_writer for the writer, canon_reader for readers", min_length=1)]
    password_file: Annotated[Path, _says("holds that role's password; 0600", extra=FILE)]
    high_water_file: Annotated[
        Path | None, _says("the largest size this writer ever signed, kept outside Postgres so that a rollback shows")
    ] = None
    bootstrap_token_hash_file: Annotated[Path | None, _says("hex SHA-256 of the one-time bootstrap token")] = None
    take_over_s: Annotated[
        int,
        _says(
            "seconds without a sign of life after which a stand-by ends the writer; it gives one every second, and a process that is gone "
            "is followed at once",
            ge=3,
            le=600,
        ),
    ] = 5
    max_rows: Annotated[
        int, _says("records of one commit; beyond 500 latency grows and throughput doesn't", ge=1, le=500)
    ] = 500
    max_queue: Annotated[
        int, _says("records waiting for a commit before BUSY; about a second's work", ge=1, le=1_000_000)
    ] = 10_000
    data_dir: Annotated[
        Path | None,
        _says("a folder on the file system of the database's data, whose room is watched; none: it isn't here"),
    ] = None
    reserve_mb: Annotated[
        int,
        _says(
            "MiB of that file system that only revocations, closings and quorum commands may use; Postgres's log of one checkpoint and a "
            "hundred thousand such records fit in",
            ge=0,
            le=1_048_576,
        ),
    ] = 256
    pool_size: Annotated[int, _says("connections of a reader; more than cores only queue elsewhere", ge=1, le=64)] = 4
    refill_batch: Annotated[int, _says("events published in one batch when the stream is refilled", ge=1, le=500)] = 500


class Deployment(Section, frozen=True, kw_only=True):
    """Which deployment this is."""

    file: Annotated[Path, _says("deployment.json: runtime id, tenant, service keys, the log's key", extra=FILE)]
    bootstrap_token_hash_file: Annotated[
        Path | None,
        _says("hex SHA-256 of the one-time bootstrap token, for the license service; none: no bootstrap here"),
    ] = None


class Gateway(Section, frozen=True, kw_only=True):
    """The HTTP face."""

    host: Annotated[str, _says("address to listen on; TLS ends before it, so private")] = "127.0.0.1"
    port: Annotated[int, _says("port to listen on; 0 takes a free one", ge=0, le=65_535)] = 8080
    cookie_secure: Annotated[
        bool, _says("send cookies over TLS only; false only where plain HTTP on loopback is all there is")
    ] = True
    body_limit_bytes: Annotated[
        int, _says("bytes of a request body; canonical JSON has no more", ge=1024, le=1_048_576)
    ] = 1_048_576
    head_timeout_s: Annotated[
        int,
        _says("seconds that a request's head may take from its first byte; a slow one holds a connection", ge=1, le=60),
    ] = 10
    body_timeout_s: Annotated[
        int, _says("seconds a body may take to arrive; a slow sender holds a place", ge=1, le=600)
    ] = 20
    rate_limit_per_minute: Annotated[
        int,
        _says(
            "requests a minute from one address (of IPv6 a /64) before a good session is shown; an office behind one address logs in, "
            "a guesser of tokens gets a hundred tries a second",
            ge=1,
            le=10_000_000,
        ),
    ] = 6_000
    session_rate_per_minute: Annotated[
        int,
        _says(
            "requests a minute of one licence, by sessions that the gate took; twice the aimed writes, for the gate's own limit judges",
            ge=1,
            le=10_000_000,
        ),
    ] = 120_000
    max_cookies: Annotated[
        int,
        _says("cookies remembered; beyond it the oldest session opens anew; 20 MB at its fullest", ge=1, le=1_000_000),
    ] = 10_000
    metrics_public: Annotated[bool, _says("answer /metrics to any address; false: to loopback only")] = False
    max_in_flight: Annotated[int, _says("requests answered at once; beyond it BUSY", ge=1, le=65_536)] = 256
    reserved_in_flight: Annotated[
        int,
        _says(
            "places beyond max_in_flight for braking and quorum commands alone, a quarter for one caller", ge=4, le=4096
        ),
    ] = 32
    max_connections: Annotated[
        int,
        _says(
            "connections at once, a quarter of them from one address that is no trusted proxy; more are closed",
            ge=4,
            le=65_536,
        ),
    ] = 1024
    login_tries: Annotated[
        int,
        _says(
            "logins of one address, or with one licence, that may fail before each further one waits twice as long",
            ge=1,
            le=100_000,
        ),
    ] = 10
    trusted_proxies: Annotated[
        tuple[str, ...],
        _says("networks whose X-Forwarded-For is believed; none by default, since anyone can send one", max_length=32),
    ] = ()
    static_dir: Annotated[Path | None, _says("the built page; none: only the API")] = None


class Gate(Section, frozen=True, kw_only=True):
    """The gatekeeper's own bounds. What it decides by is in the log, not here."""

    batch: Annotated[int, _says("decisions of one record", ge=1, le=256)] = 256
    max_queue: Annotated[int, _says("calls waiting for their decision before BUSY", ge=1, le=65_536)] = 2048
    rate_limit_per_minute: Annotated[
        int, _says("calls a minute of one caller before they are refused unrecorded", ge=1, le=1_000_000)
    ] = 6000
    recorded_denials_per_minute: Annotated[
        int, _says("denials of one caller that are recorded each minute; the rest are counted", ge=1, le=1000)
    ] = 10
    read_share_s: Annotated[int, _says("seconds that reads share one decision", ge=0, le=60)] = 60
    summary_interval_s: Annotated[int, _says("seconds between summaries of unrecorded refusals", ge=1, le=3600)] = 60
    max_sessions: Annotated[int, _says("open sessions kept in memory", ge=1, le=10_000_000)] = 100_000


class Service(Section, frozen=True, kw_only=True):
    """What every process has."""

    state_dir: Annotated[Path, _says("genesis pin and projections; made at start, 0700")]
    instance: Annotated[
        str, _says("this instance's name; two processes of one service need two", pattern="^[a-z0-9-]{1,32}$")
    ] = "main"
    beat_interval_s: Annotated[
        int, _says("seconds between beats while it writes; bounds what a cut tail can hide", ge=1, le=3600)
    ] = 60
    max_queued_audits: Annotated[int, _says("audit records waiting for their append before BUSY", ge=1, le=100_000)] = (
        4096
    )
    repage_interval_s: Annotated[
        int,
        _says(
            "seconds between looks at the canon beside the stream, so a silent stream hides nothing for longer",
            ge=1,
            le=600,
        ),
    ] = 30


class Telemetry(Section, frozen=True, kw_only=True):
    """Logs and metrics."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _says("least level that is logged")] = "info"
    json: Annotated[bool, _says("one JSON object a line; false: for eyes")] = True
    metrics_host: Annotated[str, _says("address of the metrics port")] = "127.0.0.1"
    metrics_port: Annotated[int, _says("port that answers Prometheus; 0: none", ge=0, le=65_535)] = 0


class DeploymentFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """deployment.json: what was decided when the deployment was made; genesis repeats it, signed by Root."""

    runtime_id: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    tenant: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]{1,32}$")]
    services: dict[str, Hex64]
    log: Annotated[str, msgspec.Meta(max_length=256)]

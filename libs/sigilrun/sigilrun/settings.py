"""Settings, read once: `config.toml`, overridden by `SIGIL_<SECTION>_<KEY>`, frozen.

Everything that is wrong is reported together, each problem with the place it came from: unknown sections and keys, wrong types and
values, what is missing, files that aren't there. Nothing starts on half-understood settings.

One `config.toml` serves every process, so a section may hold a key that is for another process only (`[canon] reserve_mb`). What stands in
it is checked by everyone; that it is whole is asked of who needs it, and for everyone else half a section is none.

Example::

    settings = settings.load(Path("config.toml"), os.environ, resident="license", needs=("keystore",))
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from sigilcore import canonical, digest, note
from sigilrun.settings_sections import (
    Bus,
    Canon,
    Deployment,
    DeploymentFile,
    Gate,
    Gateway,
    Keystore,
    Section,
    Service,
    Telemetry,
)

__all__ = [
    "Bus",
    "Canon",
    "Deployment",
    "DeploymentFile",
    "Gate",
    "Gateway",
    "Keystore",
    "Section",
    "Service",
    "Settings",
    "SettingsError",
    "Telemetry",
    "digest_hex",
    "load",
    "show",
]

PREFIX = "SIGIL_"
# Variables of ours that name programs and files, not settings.
_NOT_SETTINGS = frozenset({"SIGIL_CONFIG", "SIGIL_NATS_SERVER", "SIGIL_POSTGRES_BIN"})
_ENV = "environment "
_ALWAYS = ("bus", "deployment", "service")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All sections. Those that may be None are for the processes that `needs` them, and None where they aren't whole."""

    bus: Bus
    deployment: Deployment
    service: Service
    keystore: Keystore | None = None
    canon: Canon | None = None
    gateway: Gateway = Gateway()
    gate: Gate = Gate()
    telemetry: Telemetry = Telemetry()
    deployed: DeploymentFile


class SettingsError(Exception):
    """The settings can't be used; `problems` lists all reasons, each with its origin."""

    def __init__(self, problems: list[str]) -> None:
        """One line a problem."""
        super().__init__("\n".join(problems))
        self.problems = problems


SECTIONS: Mapping[str, type[Section]] = {
    "bus": Bus,
    "keystore": Keystore,
    "canon": Canon,
    "deployment": Deployment,
    "gateway": Gateway,
    "gate": Gate,
    "service": Service,
    "telemetry": Telemetry,
}


def load(path: Path, env: Mapping[str, str], *, resident: str = "", needs: Collection[str] = ()) -> Settings:
    """Read, override, check. `needs` names optional sections that this process can't do without.

    Raises:
        SettingsError: with every problem found.

    """
    problems: list[str] = []
    document = _read_toml(path, problems)
    overrides = _overrides(env, problems)
    problems += [f"{path}: unknown section [{name}]" for name in document if name not in SECTIONS]
    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        table = document.get(name, {})
        if not isinstance(table, dict):
            problems.append(f"{path}: [{name}] is not a section")
            continue
        given = {key: (value, f"{path}: [{name}] {key}") for key, value in table.items()}
        for key, value in overrides.get(name, {}).items():
            given[key] = (value, f"{_ENV}{PREFIX}{name.upper()}_{key.upper()}")
        needed = name in _ALWAYS or name in needs
        if given or needed:
            section = _section(kind, name, given, base=path.parent, resident=resident, needed=needed, problems=problems)
            sections |= {} if section is None else {name: section}
    deployed = _read_deployment(sections.get("deployment"), problems)
    if problems:
        raise SettingsError(problems)
    return Settings(deployed=deployed, **sections)


def show(settings: Settings) -> dict[str, Any]:
    """The effective values as plain data. Secrets aren't settings; a password in a URL is taken out all the same."""
    shown: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    shown["bus"]["url"] = ",".join(_without_password(url) for url in settings.bus.url.split(","))
    return shown


def digest_hex(settings: Settings) -> str:
    """SHA-256 of the effective values, for `instance_opened`."""
    return digest.sha256_hex(canonical.encode(show(settings)))


def _read_toml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        document = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        problems.append(f"{path}: can't be read: {error.strerror}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not TOML: {error}")
    else:
        return dict(document)
    return {}


def _overrides(env: Mapping[str, str], problems: list[str]) -> dict[str, dict[str, str]]:
    """The variables by section and key; one that names no section is a misspelt setting."""
    found: dict[str, dict[str, str]] = {}
    for variable, value in env.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
        if section in SECTIONS and key:
            found.setdefault(section, {})[key] = value
        else:
            problems.append(f"environment {variable}: no such setting")
    return found


def _section(
    kind: type[Section],
    name: str,
    given: Mapping[str, tuple[Any, str]],
    *,
    base: Path,
    resident: str,
    needed: bool,
    problems: list[str],
) -> Section | None:
    """One section, or None: after its problems were noted, or because it isn't whole and nobody here needs it."""
    before = len(problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for key, (value, origin) in given.items():
        field = fields.get(key)
        if field is None:
            problems.append(f"{origin}: unknown key")
            continue
        try:
            values[key] = _value(value, field.type, from_text=origin.startswith(_ENV), base=base, resident=resident)
        except msgspec.ValidationError as error:
            problems.append(f"{origin}: {error}")
            continue
        if _must_exist(field.type) and not values[key].exists():
            problems.append(f"{origin}: {values[key]} doesn't exist")
    missing = [key for key, field in fields.items() if field.required and key not in given]
    if needed:
        problems += [
            f"[{name}] {key}: missing; set it in config.toml or as {PREFIX}{name.upper()}_{key.upper()}"
            for key in missing
        ]
    return None if missing or len(problems) > before else kind(**values)


def _value(value: Any, kind: Any, *, from_text: bool, base: Path, resident: str) -> Any:
    """The value in its type. Text from the environment is read as the type asks; lists in it are split at commas."""
    if from_text and _is_tuple(kind):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if _is_path(kind):
        if not isinstance(value, str) or not value:
            raise msgspec.ValidationError("Expected a path")
        return base / value.replace("{resident}", resident)
    return msgspec.convert(value, kind, strict=not from_text)


def _plain(kind: Any) -> Any:
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _is_path(kind: Any) -> bool:
    plain = _plain(kind)
    return plain is Path or Path in get_args(plain)


def _is_tuple(kind: Any) -> bool:
    return get_origin(_plain(kind)) is tuple


def _must_exist(kind: Any) -> bool:
    return any((meta.extra or {}).get("must_exist", False) for meta in getattr(kind, "__metadata__", ()))


def _read_deployment(section: Deployment | None, problems: list[str]) -> DeploymentFile:
    nothing = DeploymentFile(runtime_id="", tenant="", services={}, log="")
    if section is None:
        return nothing
    try:
        deployed = canonical.typed(canonical.parse(section.file.read_bytes()), DeploymentFile)
        note.VerifierKey.parse(deployed.log)
    except OSError as error:
        problems.append(f"{section.file}: can't be read: {error.strerror}")
    except (canonical.NotCanonical, note.NoteError) as error:
        problems.append(f"{section.file}: {error}")
    else:
        return deployed
    return nothing


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"

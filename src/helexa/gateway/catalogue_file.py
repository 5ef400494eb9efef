"""The catalogue's file: read at the start, and again whenever it has changed.

Everything here is synchronous: it looks at one small file on a local disk. What could hold the
event loop up, a pipe, a device or a file of many megabytes, is refused.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from helexa.daemon.layers import parse_toml
from helexa.daemon.schema import Findings, Kind, Node, read_settings, rows, shown
from helexa.errors import ConfigError
from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.config import CATALOGUES
from helexa.gateway.config_layers import Loaded

MOST_BYTES = 1024 * 1024
"""Some thousand models; to read as much takes most of a second."""
TABLE = Kind("a table", lambda value: isinstance(value, dict), dict)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogueTables:
    """What a catalogue's file may hold."""

    models: tuple[Profile, ...] = rows(Profile, (), "what may be served; of one id the first holds")
    aliases: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"kind": TABLE, "doc": 'other names of models: `"alias" = "model id"`'},
    )


class Stamp(NamedTuple):
    """What changes when a file does."""

    device: int
    inode: int
    size: int
    mtime_ns: int


Seen = Stamp | str | None
"""A file's stamp, why there is none, or None where there is no file."""


class CatalogueFile:
    """A catalogue and where it comes from.

    ``catalogue`` is the one in force, ``warnings`` what an operator should know about it. The
    aliases of ``names`` hold beside those of the file.
    """

    def __init__(self, path: str | Path, names: Mapping[str, str] | None = None) -> None:
        """Read the file; one that is absent or empty is an empty catalogue. Raises ConfigError."""
        self.path = Path(path)
        self._names = names or {}
        self._read_as = self._last = look(self.path)
        self.catalogue, self.warnings = self._read()

    def check(self) -> Catalogue:
        """The catalogue in force, read anew if the file has changed since the last look.

        A file that is empty or gone is believed at the second look only: an editor that is saving
        may be between its two steps.
        """
        seen = look(self.path)
        empty = seen is None or (isinstance(seen, Stamp) and seen.size == 0)
        saving = empty and seen != self._last and self.catalogue != Catalogue()
        self._last = seen
        if seen == self._read_as or saving:
            return self.catalogue
        return self.reload()

    def reload(self) -> Catalogue:
        """The same, read anew in any case; a file that cannot be used leaves the old one."""
        self._read_as = self._last = look(self.path)  # before reading: what comes later is news
        try:
            self.catalogue, self.warnings = self._read()
        except ConfigError as error:
            for problem in error.problems:
                log.error("catalogue %s is not reloaded: %s", self.path, problem)
            return self.catalogue
        for warning in self.warnings:
            log.warning("%s", warning)
        known = self.catalogue
        fields = {"models": len(known.profiles), "aliases": len(known.aliases)}
        log.info("catalogue %s is reloaded", self.path, extra={"fields": fields})
        return known

    def _read(self) -> tuple[Catalogue, tuple[str, ...]]:
        found, warnings = read_catalogue(self.path)
        return replace(found, aliases={**self._names, **found.aliases}), warnings


def catalogue_path(configured: str | None, usual: tuple[str, ...] = CATALOGUES) -> Path:
    """Where the catalogue is: as configured, else the first of the usual places that exists."""
    if configured is not None:
        return Path(configured or os.devnull)
    return Path(next((path for path in usual if os.path.exists(path)), usual[0]))


def open_catalogue(loaded: Loaded, names: Mapping[str, str] | None = None) -> CatalogueFile:
    """The catalogue of a configuration, with further aliases.

    Raises ConfigError, which then names `models_config`.
    """
    path = catalogue_path(loaded.config.models_config)
    try:
        return CatalogueFile(path, names)
    except ConfigError as error:
        problems = [f"models_config: {path}: {problem}" for problem in error.problems]
        raise ConfigError(str(loaded.path), problems) from error


def look(path: Path) -> Seen:
    """What tells this state of the file from another."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        return str(error)
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def read_catalogue(path: Path) -> tuple[Catalogue, tuple[str, ...]]:
    """What a file declares, and what an operator should know about it. Raises ConfigError."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return Catalogue(), ()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(str(path), [f"cannot be read: {why or error}"]) from error
    return parse_catalogue(data, str(path))


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file of a sensible size, none of the null device. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev:
            return b""
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(f"it has more than {MOST_BYTES} bytes")
    return data


def parse_catalogue(data: bytes, path: str) -> tuple[Catalogue, tuple[str, ...]]:
    """The same of the bytes of a file. Raises ConfigError with every problem there is."""
    found = Findings()
    try:
        tables = read_settings(CatalogueTables, Node.of(parse_toml(data, path)), found)
    except RecursionError as error:
        raise ConfigError(path, ["nested too deeply"]) from error
    check_aliases(tables.aliases, found)
    if found.problems:
        raise ConfigError(path, found.problems)
    warnings = [f"unknown key {label} in {path}" for label in found.unknown]
    profiles: dict[str, Profile] = {}
    for i, profile in enumerate(tables.models):
        if profiles.setdefault(profile.id, profile) is not profile:
            warnings.append(f"models[{i}] in {path} is not used: {profile.id} is there already")
    return Catalogue(profiles, tables.aliases), tuple(warnings)


def check_aliases(aliases: Mapping[str, Any], found: Findings) -> None:
    """Note every alias that does not name a model."""
    for alias, model in aliases.items():
        if isinstance(model, dict):
            found.problems.append(f"aliases.{alias}: put an alias with a dot in it into quotes")
        elif not isinstance(model, str) or not model:
            found.problems.append(f"aliases.{alias}: expected a model id, got {shown(model)}")

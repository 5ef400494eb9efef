"""The catalogue's file: where it is, what it cannot be, and what happens when it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helexa.errors import ConfigError
from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.catalogue_file import (
    MOST_BYTES,
    CatalogueFile,
    catalogue_path,
    open_catalogue,
    read_catalogue,
)
from helexa.gateway.config import GatewayConfig
from helexa.gateway.config_layers import Loaded

ONE = '[[models]]\nid = "o/one"\n'
TWO = ONE + '[[models]]\nid = "o/two"\n'
BROKEN = "[[models]\n"


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What was logged, as `LEVEL message`."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    log = logging.getLogger("helexa.gateway.catalogue_file")
    handler = Lines()
    log.addHandler(handler)
    with caplog.at_level(logging.INFO, log.name):
        yield lines
    log.removeHandler(handler)


def write(path: Path, text: str) -> None:
    """Replace the file as editors do; never with the same stamp."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_g004_catalogue_missing(tmp_path: Path) -> None:
    assert CatalogueFile(tmp_path / "absent.toml").catalogue == Catalogue()
    assert CatalogueFile("/dev/null").catalogue == Catalogue()
    file = tmp_path / "models.toml"
    file.write_text("")
    assert CatalogueFile(file).catalogue == Catalogue()
    file.write_text('[aliases]\na = "b"')
    catalogue = CatalogueFile(file).catalogue
    assert (catalogue.profiles, catalogue.resolve_alias("a")) == ({}, "b")


def test_g005_reload(tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ONE)
    file = CatalogueFile(path)
    assert file.check() is file.catalogue
    assert logged == []

    write(path, ONE + '[aliases]\nnew = "o/one"\n')
    assert file.check().resolve_alias("new") == "o/one"
    assert logged == [f"INFO catalogue {path} is reloaded"]
    logged.clear()

    good = file.catalogue
    write(path, BROKEN)
    for _ in range(3):
        assert file.check() is good
    [line] = logged
    assert line.startswith(f"ERROR catalogue {path} is not reloaded: line 1, column 9: ")
    logged.clear()
    assert file.reload() is good
    assert len(logged) == 1
    logged.clear()

    write(path, TWO)
    assert list(file.reload().profiles) == ["o/one", "o/two"]
    assert file.check() is file.catalogue
    assert logged == [f"INFO catalogue {path} is reloaded"]


def test_g005_a_signal_reads_a_file_that_looks_the_same(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ONE)
    os.utime(path, ns=(1, 1))
    file = CatalogueFile(path)
    path.write_text(ONE.replace("one", "two"))
    os.utime(path, ns=(1, 1))
    assert list(file.check().profiles) == ["o/one"]
    assert list(file.reload().profiles) == ["o/two"]


def test_each_part_of_a_stamp_counts(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ONE)
    os.utime(path, ns=(1, 1))
    file = CatalogueFile(path)
    path.write_text(TWO)
    os.utime(path, ns=(1, 1))
    assert len(file.check().profiles) == 2  # another size
    path.write_text(TWO.replace("two", "six"))
    os.utime(path, ns=(2, 2))
    assert "o/six" in file.check().profiles  # another time
    write(path, TWO.replace("two", "ten"))
    os.utime(path, ns=(2, 2))
    assert "o/ten" in file.check().profiles  # another file


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "empty"])
def test_a_file_that_is_being_saved_is_not_believed_empty(
    tmp_path: Path, logged: list[str], gone: bool
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ONE)
    file = CatalogueFile(path)

    def empty() -> None:
        if gone:
            path.unlink()
        else:
            path.write_text("")

    empty()
    assert file.check().profiles
    write(path, TWO)
    assert len(file.check().profiles) == 2
    logged.clear()
    empty()
    assert file.check().profiles
    assert logged == []
    assert file.check() == Catalogue()
    assert logged == [f"INFO catalogue {path} is reloaded"]
    write(path, ONE)
    assert file.check().profiles
    empty()
    assert file.reload() == Catalogue()


def test_warnings_of_a_new_catalogue_are_logged(tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / "models.toml"
    file = CatalogueFile(path)
    write(path, "colour = 1")
    assert file.check() == Catalogue()
    assert f"WARNING unknown key colour in {path}" in logged
    file.check()
    assert len(logged) == 2


@pytest.mark.parametrize("kind", ["pipe", "folder", "huge", "latin", "nul"])
def test_what_is_no_file_of_a_sensible_size_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a\0b" if kind == "nul" else "models.toml")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(MOST_BYTES + 1)
    elif kind == "latin":
        path.write_bytes(b"a = '\xff'")
    says = {
        "pipe": "cannot be read: it is not a regular file",
        "folder": "cannot be read: Is a directory",
        "huge": f"cannot be read: it has more than {MOST_BYTES} bytes",
        "latin": "line 1, column 6: not UTF-8",
        "nul": "cannot be read: embedded null byte",
    }
    with pytest.raises(ConfigError) as refusal:
        CatalogueFile(path)
    assert refusal.value.problems == (says[kind],)


def test_a_file_that_turns_into_a_pipe_leaves_the_old_catalogue(
    tmp_path: Path, logged: list[str]
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ONE)
    file = CatalogueFile(path)
    old = file.catalogue
    path.unlink()
    os.mkfifo(path)
    assert [file.check() for _ in range(3)] == [old] * 3
    assert logged == [
        f"ERROR catalogue {path} is not reloaded: cannot be read: it is not a regular file"
    ]


def test_a_folder_that_turns_into_a_file_is_an_error_once(
    tmp_path: Path, logged: list[str]
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "models.toml"
    path.write_text(ONE)
    file = CatalogueFile(path)
    old = file.catalogue
    path.unlink()
    folder.rmdir()
    folder.write_text("")
    assert [file.check() for _ in range(3)] == [old] * 3
    assert logged == [f"ERROR catalogue {path} is not reloaded: cannot be read: Not a directory"]


def test_a_catalogue_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ONE + "#" * (MOST_BYTES - len(ONE)))
    assert list(read_catalogue(path)[0].profiles) == ["o/one"]


def test_where_the_catalogue_is(tmp_path: Path) -> None:
    ours, other = str(tmp_path / "ours"), str(tmp_path / "other")
    assert catalogue_path(None, (ours, other)) == Path(ours)
    Path(other).touch()
    assert catalogue_path(None, (ours, other)) == Path(other)
    Path(ours).touch()
    assert catalogue_path(None, (ours, other)) == Path(ours)
    assert catalogue_path("x/models.toml", (ours, other)) == Path("x/models.toml")
    assert catalogue_path("") == Path("/dev/null")


def test_g003_a_broken_catalogue_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[[models]]\n[[models]]")
    loaded = Loaded(GatewayConfig(models_config=str(path)), Path("/etc/g.toml"), ())
    with pytest.raises(ConfigError) as refusal:
        open_catalogue(loaded)
    prefix = f"failed to load config from '/etc/g.toml': models_config: {path}: models"
    assert str(refusal.value) == f"{prefix}[0].id: is missing\n{prefix}[1].id: is missing"


def test_of_one_id_the_first_profile_holds(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('colour = 1\n[[models]]\nid = "a"\nvram_mb = 1\nsize = 2\n[[models]]\nid = "a"')
    catalogue = CatalogueFile(file)
    assert catalogue.catalogue.profiles == {"a": Profile("a", vram_mb=1)}
    assert catalogue.warnings == (
        f"unknown key colour in {file}",
        f"unknown key models[0].size in {file}",
        f"models[1] in {file} is not used: a is there already",
    )

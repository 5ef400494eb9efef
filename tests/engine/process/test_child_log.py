"""What a child says is in its parent's log, whoever wrote it and however it ended."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from helexa.daemon.logs import configure_logging
from helexa.engine.outputs import StepOutput
from helexa.engine.process.child_log import LineFormatter, tell
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import ProcessHost
from tests.cores import BUILDER, REQUEST, Controls
from tests.test_host import read_all
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the daemon's log, as JSON, is written to."""
    root = logging.getLogger("helexa")
    before = (list(root.handlers), root.level, root.propagate)
    written = io.StringIO()
    configure_logging(logging.INFO, "json", written)
    yield written
    root.handlers[:], root.level, root.propagate = before
    root.setLevel(before[1])


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_of_a_child_is_one_of_the_log(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nursery, controls = Nursery(warm=False, builder=BUILDER), Controls(tmp_path)
    host = ProcessHost(controls.order, nursery)
    try:
        host.start()
        pid = host.pid
        controls.fail("noise")
        queue: Queue[StepOutput] = Queue()
        host.submit(REQUEST, queue.put)
        read_all(queue)
        wait_until(lambda: "unexpected error" in stream.getvalue(), 20)
    finally:
        host.close()
        nursery.close()
    said = [line for line in lines_of(stream) if line.get("pid") == pid]
    assert "noise from a library" in said[0]["message"]
    assert said[0]["level"] == "WARN"
    assert said[1]["message"] == "half a line "
    assert said[2]["level"] == "ERROR"
    assert "RuntimeError: with the token" in said[2]["exception"]
    text = stream.getvalue()
    assert "abcdef" not in text


def test_a_record_keeps_its_logger_its_level_and_its_traceback(stream: io.StringIO) -> None:
    try:
        raise ValueError("bug")
    except ValueError as error:
        fault = (type(error), error, error.__traceback__)
    record = logging.LogRecord("helexa.x", logging.ERROR, "f", 1, "a %d", (1,), fault)
    line = LineFormatter().format(record)
    assert "\n" not in line
    tell(line, 7)
    (told,) = lines_of(stream)
    assert (told["logger"], told["level"], told["message"]) == ("helexa.x", "ERROR", "a 1")
    assert told["pid"] == 7
    assert "ValueError: bug" in told["exception"]


def test_what_is_below_the_level_is_left_out(stream: io.StringIO) -> None:
    for level in (logging.DEBUG, logging.INFO):
        record = logging.LogRecord("helexa.x", level, "f", 1, f"at {level}", (), None)
        tell(LineFormatter().format(record), 7)
    assert [line["message"] for line in lines_of(stream)] == ["at 20"]


@pytest.mark.parametrize("line", ["\x1e", "\x1e[1", "\x1e{}", "\x1e[1,2]", "\x1enull"])
def test_a_line_that_is_cut_off_is_logged_as_it_is(stream: io.StringIO, line: str) -> None:
    tell(line, 7)
    (told,) = lines_of(stream)
    assert told["level"] == "WARN"

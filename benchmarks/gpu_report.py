"""One JSON document of what `gpu.sh` left in a folder: the tests' results and the readings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


def report(folder: Path) -> dict[str, Any]:
    """What is there; None for what did not come to its end."""
    return {
        "tests": tests(folder / "tests.xml"),
        "decode": readings(folder / "decode.json"),
        "look_ahead": readings(folder / "look_ahead.json"),
        "long_context": readings(folder / "long_context.json"),
        "products": readings(folder / "products.json"),
    }


def tests(path: Path) -> dict[str, Any] | None:
    """How many tests ran, and what the failed ones said, from pytest's XML."""
    if not path.is_file():
        return None
    suite = next(ElementTree.parse(path).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        {"test": f"{case.get('classname')}::{case.get('name')}", "said": found.get("message", "")}
        for case in suite.iter("testcase")
        for found in (*case.iter("failure"), *case.iter("error"))
    ]
    return {**counts, "failed": failed}


def readings(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


if __name__ == "__main__":
    print(json.dumps(report(Path(sys.argv[1])), indent=1))

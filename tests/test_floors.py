"""The import floors: who may know whom, read from the source, and what an import really loads.

To add a package, give it a row in ``MAY_IMPORT``; if it must start light, one in ``LOADS_NONE_OF``.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import helexa

ROOT = Path(helexa.__file__).parent

ROOT_ONLY = ("helexa", "helexa.__version__")  # `import helexa`, but none of its lazy names
ENGINE = (*ROOT_ONLY, "helexa.errors", "helexa.heap", "helexa.engine")
TEXT = (*ENGINE, "helexa.text")
LLM = tuple(
    f"helexa.{name}"
    for name in (
        *("llm", "async_llm", "handle", "opening", "loaded", "chat_options", "child"),
        *("answers", "streams", "progress", "quantising"),
    )
)
LIBRARY = (*TEXT, *LLM)
ERRORS = (*ROOT_ONLY, "helexa.errors", "helexa.refusals")
PROTOCOL = (*ERRORS, "helexa.protocol", "helexa.text.events")  # events are plain data
SHARED = (*PROTOCOL, "helexa.heap", "helexa.http", "helexa.daemon")  # by the daemon and the gateway

# Floor → what its modules may import from this package. The longest matching prefix decides.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "helexa.errors": (),
    "helexa.heap": (),
    "helexa.refusals": ("helexa.errors",),
    "helexa.protocol": PROTOCOL,
    "helexa.engine": ENGINE,
    "helexa.text": TEXT,
    "helexa.http": (*ERRORS, "helexa.http"),
    **dict.fromkeys(LLM, LIBRARY),
    "helexa.daemon": (*ROOT_ONLY, *SHARED),
    "helexa.neuron": (*LIBRARY, *SHARED, "helexa.neuron"),
    "helexa.gateway": (*ROOT_ONLY, *SHARED, "helexa.gateway"),
    "helexa.cli": (*LIBRARY, *SHARED, "helexa.neuron", "helexa.gateway", "helexa.cli"),
    "helexa.__main__": ("helexa.cli",),
}

# Library → the floors that may import it, at any depth of any function.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch": ("helexa.engine",),
    "triton": ("helexa.engine",),
    "safetensors": ("helexa.engine",),
    "tokenizers": ("helexa.text",),
    "jinja2": ("helexa.text",),
    "llguidance": ("helexa.text.grammar",),
    "click": ("helexa.cli",),
    "prometheus_client": ("helexa.neuron", "helexa.cli"),
    "psycopg": ("helexa.gateway.entitlements.postgres",),
    "pynvml": ("helexa.neuron",),
    "h11": ("helexa.http",),
    "transformers": (),
}

# What a daemon decides, as against the models it holds: plain data, and no tensor anywhere.
NEURON_POLICY = tuple(
    f"helexa.neuron.{name}"
    for name in (
        *(
            "activation",
            "admission",
            "bearer",
            "config",
            "config_layers",
            "config_reference",
        ),
        *("discovery", "ids", "limits", "listing", "machine", "metrics"),
        *("nvml", "preflight", "request_line", "runtime", "seating", "sources"),
    )
)

ACCELERATED = ("torch", "triton", "safetensors.torch", "numpy")
UPSTAIRS = ("helexa.cli", "helexa.llm", "helexa.text", "tokenizers", "jinja2", "click", "rich")
GRAMMAR = ("llguidance",)  # loaded by the first request that is constrained, never by an import
HEAVY = (*ACCELERATED, "transformers", "tokenizers", "huggingface_hub", "jinja2", "pydantic")

# Modules imported in a fresh interpreter (`.*` = all below) → what must not be loaded then.
LOADS_NONE_OF: dict[tuple[str, ...], tuple[str, ...]] = {
    ("helexa", "helexa.errors", "helexa.refusals"): (
        *(*HEAVY, *GRAMMAR, "anyio", "httpx", "click", "rich"),
    ),
    ("helexa.cli.*",): (*HEAVY, *GRAMMAR),
    ("helexa.protocol.*",): (
        *(name for name in HEAVY if name != "pydantic"),
        "helexa.engine",
        "helexa.llm",
        "helexa.cli",
        "anyio",
        "h11",
        "httpx",
        "click",
        "rich",
    ),
    ("helexa.text.*",): (*ACCELERATED, *GRAMMAR, "transformers", "helexa.llm", "helexa.cli"),
    ("helexa.http.*",): (*HEAVY, *UPSTAIRS, "helexa.engine", "httpx", "trio"),
    ("helexa.protocol.control",): (*HEAVY, "anyio"),
    ("helexa.daemon.*",): (*HEAVY, *GRAMMAR, *UPSTAIRS, "helexa.engine", "helexa.neuron"),
    ("helexa.gateway.*",): (
        *(*HEAVY, *GRAMMAR, *UPSTAIRS),
        *("httpx", "helexa.engine", "helexa.neuron"),
    ),
    # Who keeps no budgets need not wait for databases.
    ("helexa.gateway.run",): ("sqlite3", "psycopg", "helexa.gateway.entitlements.ledger", "email"),
    (
        "helexa.engine.params",
        "helexa.engine.outputs",
        "helexa.engine.masks",
        "helexa.engine.config",
        "helexa.engine.sequence",
        "helexa.engine.scheduler",
        "helexa.engine.cache.blocks",
        "helexa.engine.cache.prefix",
        "helexa.engine.checkpoint.reference",
        "helexa.engine.checkpoint.hub",
        "helexa.engine.checkpoint.checkpoint",
        "helexa.engine.host",
        "helexa.engine.process.*",
    ): (*ACCELERATED, "transformers", *UPSTAIRS),
    NEURON_POLICY: (*ACCELERATED, "transformers", "huggingface_hub", *UPSTAIRS, "pynvml"),
    ("helexa.engine.*",): ("transformers", *GRAMMAR, *UPSTAIRS),
    ("helexa.llm",): ("transformers", *GRAMMAR, "helexa.cli", "click"),
    ("helexa.engine.build", "helexa.llm"): ("torch._dynamo", "torch._inductor"),  # two seconds
}

# Imports modules one by one; prints, as JSON, by which of them each forbidden one came in.
PROBE = """
import importlib, json, sys
modules, forbidden = json.loads(sys.argv[1])
found = {}
for module in modules:
    importlib.import_module(module)
    for name in forbidden:
        if name in sys.modules:
            found.setdefault(name, module)
print(json.dumps(found))
"""

# Runs the command line in argv[1:] and prints, on stderr, whether torch was loaded for it.
COMMAND = """
import sys
from helexa.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def module_name(path: Path) -> str:
    parts = ["helexa", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def within(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or below it; nothing is below ``helexa`` itself."""
    return module == package or (package != "helexa" and module.startswith(f"{package}."))


def expand(pattern: str) -> list[str]:
    """The modules that a pattern names, without kernels that only a GPU's host can import."""
    if not pattern.endswith(".*"):
        return [pattern]
    inside = (name for name in SOURCES if within(name, pattern.removesuffix(".*")))
    return [name for name in inside if not name.endswith("_triton")]


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = node.level - is_package
                parents = module.split(".")[: len(module.split(".")) - above]
                base = ".".join([*parents, *filter(None, [base])])
            # `from helexa.engine import config` names a module; the rest are contents.
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in SOURCES or base == "helexa" else base


def floor_of(module: str) -> str | None:
    homes = [floor for floor in MAY_IMPORT if within(module, floor)]
    return max(homes, key=len, default=None)


def breaches(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every import of a module that its floor does not allow, as a line a person can act on."""
    floor = floor_of(module)
    if floor is None:
        return [f"{module} is on no floor: give its package a row in MAY_IMPORT"]
    found = []
    for line, name in imports(module, source, is_package=is_package):
        if name.partition(".")[0] == "helexa":
            if not any(within(name, allowed) for allowed in MAY_IMPORT[floor]):
                found.append(f"{module}:{line} imports {name}, which {floor} may not")
            continue
        library = name.partition(".")[0]
        homes = ONLY_IN.get(library)
        if homes is not None and not any(within(module, home) for home in homes):
            found.append(f"{module}:{line} imports {library}, which {floor} may not")
    return found


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "helexa"])
def test_a_module_imports_from_its_own_floor_and_those_below(module: str) -> None:
    path = SOURCES[module]
    source = path.read_text(encoding="utf-8")
    assert breaches(module, source, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("helexa.engine.core", "from helexa.text.events import Text"),
        ("helexa.engine.core", "from helexa import llm"),
        ("helexa.engine.core", "from ..text import events"),
        ("helexa.engine.core", "def f():\n    import helexa.cli.main"),
        ("helexa.engine.core", "from helexa import LLM"),
        ("helexa.errors", "from helexa.engine.params import SamplingParams"),
        ("helexa.text.stop", "def f():\n    import torch.nn"),
        ("helexa.engine.core", "def f():\n    import llguidance"),
        ("helexa.llm", "from click import echo"),
        ("helexa.protocol.sse", "import torch"),
        ("helexa.protocol.control", "from helexa.engine.params import SamplingParams"),
        ("helexa.protocol.openai.chat", "from helexa.text.tokenizer import Tokenizer"),
        ("helexa.engine.models.llama", "from transformers import LlamaConfig"),
        ("helexa.neuron.limits", "import torch"),
        ("helexa.neuron.config", "from helexa.cli import main"),
        ("helexa.engine.core", "from helexa.neuron import limits"),
        ("helexa.gateway.config", "from helexa.neuron.config import NeuronConfig"),
        ("helexa.gateway.config", "import click"),
        ("helexa.http.server", "from helexa.text.events import Text"),
        ("helexa.http.server", "import torch"),
        ("helexa.llm", "import h11"),
        ("helexa.brand_new", ""),
    ],
)
def test_the_check_itself_sees_a_breach(module: str, source: str) -> None:
    assert breaches(module, source)


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    LOADS_NONE_OF.items(),
    ids=[", ".join(modules) if len(modules) < 3 else modules[0] for modules in LOADS_NONE_OF],
)
def test_a_fresh_import_loads_nothing_it_must_not(
    modules: tuple[str, ...], forbidden: tuple[str, ...]
) -> None:
    names = [name for pattern in modules for name in expand(pattern)]
    assert names
    assert run_fresh(PROBE, json.dumps([names, forbidden])).stdout.strip() == "{}"


@pytest.mark.parametrize("words", ["--help", "chat --help", "version"])
def test_light_commands_do_not_load_torch(words: str) -> None:
    assert run_fresh(COMMAND, *words.split()).stderr.split()[-1] == "False"


def run_fresh(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done

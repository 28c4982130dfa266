"""The rules of the house: who imports whom, how long things are, and that words said twice agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from monitor_resilient.config import load_config
from resilient_core.settings import Setting, check_config
from tap_resilient.source import load_source
from tap_resilient.tap import SETTINGS as TAP_SETTINGS
from target_resilient.config import SETTINGS as TARGET_SETTINGS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("resilient_core", "tap_resilient", "target_resilient", "monitor_resilient")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
LAZY = {"hvac", "boto3", "botocore", "google", "altair", "apprise"}  # extras: a plain install has to run without them

MAY_IMPORT = {
    "resilient_core": {"resilient_core"},
    "tap_resilient": {"resilient_core", "tap_resilient"},
    "target_resilient": {"resilient_core", "target_resilient"},
    "monitor_resilient": set(PACKAGES),
}
ONLY_IN = {
    "psycopg2": {"target_resilient/backends/postgres.py"},
    "duckdb": {"target_resilient/backends/duckdb.py"},
}
SENDS_HTTP = ("requests", "urllib3", "http.client", "urllib.request")
MAY_SEND_HTTP = {"tap_resilient/client.py", "tap_resilient/auth.py"}
PARSES_HEADERS = "requests.utils"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports; type-checking imports do not count as top level."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name_of(path)}: relative import"
            names.add(node.module)
    return names


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    package = name_of(path).split("/")[0]
    ours = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_driver_is_imported_by_its_backend_alone(path: Path) -> None:
    for name in imported(path):
        allowed = ONLY_IN.get(name.split(".")[0], {name_of(path)})
        assert name_of(path) in allowed, f"{name} may be imported by {allowed} alone"


@pytest.mark.parametrize("path", [path for path in MODULES if "tap_resilient/" in name_of(path)], ids=name_of)
def test_only_the_client_sends_http_for_the_tap(path: Path) -> None:
    if name_of(path) not in MAY_SEND_HTTP:
        names = imported(path) - {PARSES_HEADERS}
        assert not [name for name in names if name.startswith(SENDS_HTTP)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_are_imported_lazily(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path, top_level_only=True)} & LAZY


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500, "a file over 500 lines is a design question"
    long = [f"{name} ({lines} lines)" for name, lines in functions(path) if lines > 60]
    assert not long, "a function over 60 lines is a design question"


def test_make_alone_lists_the_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    declared = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert declared
    assert [name for name in declared if not re.search(rf"^  {name} +\S", listed, re.M)] == []


def test_the_lock_files_record_public_registries_only() -> None:
    locks = [ROOT / "uv.lock", ROOT / "tests/e2e/json_server/package-lock.json"]
    hosts = {
        host for lock in locks for host in re.findall(r"\w+://([^/\"]+)/[^\"]*\.(?:whl|gz|tgz)\"", lock.read_text())
    }
    registries = set(re.findall(r'registry = "([^"]+)"', locks[0].read_text()))
    assert hosts <= {"files.pythonhosted.org", "registry.npmjs.org"}
    assert registries == {"https://pypi.org/simple"}


@pytest.mark.parametrize("command", ["tap-resilient", "target-resilient", "monitor-resilient"])
def test_every_command_says_the_version_of_the_distribution(command: str) -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / command, "--version"], capture_output=True, text=True, check=True
    )
    assert version("singer-resilient") in said.stdout


def test_the_changelog_knows_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(version('singer-resilient'))}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_settings_tables_say_what_the_code_says() -> None:
    checked = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("command", "settings"),
    [("tap-resilient", TAP_SETTINGS), ("target-resilient", TARGET_SETTINGS)],
    ids=["tap", "target"],
)
def test_about_says_the_declared_settings(command: str, settings: Sequence[Setting]) -> None:
    path = Path(sys.executable).parent / command
    said = subprocess.run([path, "--about", "--format", "json"], capture_output=True, text=True, check=True)
    properties = json.loads(said.stdout)["settings"]["properties"]
    assert {s.name: s.description for s in settings} == {n: p["description"] for n, p in properties.items()}


@pytest.mark.parametrize("path", sorted((ROOT / "sample_config/sources").glob("*.yaml")), ids=lambda path: path.name)
def test_the_sample_sources_have_no_fault(path: Path) -> None:
    variables = {"base_url": "http://127.0.0.1:8765", "repository": "meltano/sdk"}
    assert load_source({"source": str(path), "config": variables}).streams


@pytest.mark.parametrize(
    ("name", "settings"), [("tap", TAP_SETTINGS), ("target", TARGET_SETTINGS)], ids=["tap", "target"]
)
def test_the_sample_configs_have_no_fault(name: str, settings: Sequence[Setting]) -> None:
    assert check_config(settings, json.loads((ROOT / f"sample_config/{name}.json").read_text())) == []


def test_the_sample_monitor_config_has_no_fault() -> None:
    assert load_config(str(ROOT / "sample_config/monitor.yaml")).checks

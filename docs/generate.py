"""Writes the settings blocks of README.md, docs/ and meltano.yml from the declarations in the code: `make docs`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from resilient_core.errors import EXIT_MEANINGS
from resilient_core.settings import Setting

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "docs/source-file.md", "docs/monitoring.md", "meltano.yml")
PLUGINS = {
    "tap-resilient": "tap_resilient.tap:SETTINGS",
    "target-resilient": "target_resilient.config:SETTINGS",
    "monitor-resilient": "monitor_resilient.settings:SETTINGS",
}
_BLOCK = re.compile(
    r"(?P<open>(?:<!--|[ ]*\#) generated: (?P<name>\S+)(?: -->)?\n)"
    r"(?:(?!generated:).)*?(?P<close>(?:<!--|[ ]*\#) end\b)",
    re.DOTALL,
)
_MELTANO_KINDS = {"duration": "string", "size": "string", "ratio": "string", "password": "string", "any": "object"}


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Write every block anew; with `--check` write nothing and return 1 if one is out of date."""
    stale = [path for path in existing() if path.read_text() != regenerated(path)]
    for path in stale:
        sys.stderr.write(f"{path.relative_to(ROOT)} {'is out of date; run make docs' if arguments else 'written'}\n")
        if not arguments:
            path.write_text(regenerated(path))
    return int(bool(stale and arguments))


def existing() -> list[Path]:
    """The files that hold generated blocks."""
    return [ROOT / name for name in FILES if (ROOT / name).exists()]


def regenerated(path: Path) -> str:
    """The text of `path` with every generated block as the code says it now."""
    return _BLOCK.sub(lambda block: f"{block['open']}{content(block['name'])}{block['close']}", path.read_text())


def content(name: str) -> str:
    """What stands in the block `name`: `<kind>:<subject>`, such as `table:tap-resilient`."""
    kind, _, subject = name.partition(":")
    if kind == "exit-codes":
        return exit_codes()
    writers = {"table": table, "meltano": meltano_settings}
    return writers[kind](settings_of(subject))


def settings_of(subject: str) -> Sequence[Setting]:
    """The settings of a plugin, or those at `module:NAME`, `module:NAME.key` or `module:NAME.key.attribute`."""
    module, _, name = PLUGINS.get(subject, subject).partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    return cast("Sequence[Setting]", found)


def table(settings: Sequence[Setting]) -> str:
    """A Markdown table."""
    rows = [f"| `{s.name}` | {_kind(s)} | {_default(s)} | {_cell(s.description)} |" for s in settings]
    return "\n".join(["", "| key | kind | default | meaning |", "|---|---|---|---|", *rows, "", ""])


def meltano_settings(settings: Sequence[Setting]) -> str:
    """The `settings:` list of a plugin in meltano.yml."""
    return "    settings:\n" + "".join(_meltano_setting(setting) for setting in settings)


def exit_codes() -> str:
    """The table of exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_MEANINGS.items()]
    return "\n".join(["", "| code | meaning |", "|---|---|", *rows, "| 128+n | ended by signal n |", "", ""])


def _meltano_setting(setting: Setting) -> str:
    lines = [
        f"    - name: {setting.name}",
        f"      label: {setting.label}",
        f"      kind: {_MELTANO_KINDS.get(setting.kind, setting.kind)}",
        f"      description: {json.dumps(setting.description, ensure_ascii=False)}",
    ]
    if setting.sensitive or setting.kind == "password":
        lines.append("      sensitive: true")
    if setting.options:
        lines += ["      options:", *(f"      - {{label: {option}, value: {option}}}" for option in setting.options)]
    return "\n".join(lines) + "\n"


def _kind(setting: Setting) -> str:
    if setting.options:
        return " ".join(f"`{option}`" for option in setting.options)
    return setting.kind + (" (secret)" if setting.sensitive else "")


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    return "" if setting.default is None else f"`{json.dumps(setting.default)}`".replace('"', "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())

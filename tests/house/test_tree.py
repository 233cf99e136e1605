"""Properties of the tree as a whole: no path of one machine, no dead link, the commands that the house promises."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
# Written in pieces, so that this file does not match.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(" + "|".join(("home", "root", "tmp", "Users", "work")) + r")/\w")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = ("serve", "test", "check", "contracts", "fresh", "bench", "train-demo", "evaluate", "lock", "docs")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return "" if b"\0" in data[:8192] else data.decode("utf-8", errors="replace")


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_tracked_file_is_too_large() -> None:
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 17_000_000] == []


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_of_the_documentation_lead_somewhere(page: Path) -> None:
    targets = (match[1] for match in LINK.finditer(page.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert missing == []


def test_pages_that_messages_point_to_exist() -> None:
    modules = [path for path in tracked() if path.suffix == ".py" and "tests" not in path.parts]
    mentioned = {page for path in modules for page in re.findall(r"docs/[\w/-]+\.md", text_of(path))}
    assert sorted(page for page in mentioned if not (ROOT / page).exists()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_has_the_target(target: str) -> None:
    assert re.search(rf"^{target}:.* ## ", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"-m (tests\.[\w.]*\w)", MAKEFILE))))
def test_what_the_makefile_runs_is_there(module: str) -> None:
    """It can be imported, and where it is a command, its help can be asked for."""
    main = getattr(importlib.import_module(module), "main", None)
    if main is not None:
        command = typer.Typer()
        command.command()(main)
        assert CliRunner().invoke(command, ["--help"]).exit_code == 0


def test_scripts_of_continuous_integration_can_be_executed() -> None:
    assert [script.name for script in (ROOT / ".ci").iterdir() if not script.stat().st_mode & 0o100] == []

"""What is packaged: every package of the tree is listed, the wheel holds it all, and the pins fit the ranges."""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDERS = ("control", "interpret", "service", "deploy")
DEMO = Path("deploy/demo")
TEMPLATES = Path("interpret/reports/templates")
DESK = Path("service/desk/page")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IGNORED = shutil.ignore_patterns("__pycache__", ".*_cache", "*.pyc")


def source_files() -> set[str]:
    """Everything below the four folders that belongs in a wheel, relative to the root."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if path.suffix in (".py", ".typed")}


def demo_files() -> set[str]:
    patterns = ("*.yaml", "en-es/*", "en-es-half/*", "lm/*", "sets/*.safetensors", "calibration/*.safetensors")
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / DEMO).glob(pattern)}


def templates() -> set[str]:
    """What the pages of reports are made of."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / TEMPLATES).iterdir()}


def desk_files() -> set[str]:
    """The page that every server has."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / DESK).rglob("*") if path.is_file()}


def requirements() -> list[Requirement]:
    """What deploy/constraints.txt pins; what goes with vLLM has constraints of its own."""
    extras = [lines for name, lines in PROJECT["project"]["optional-dependencies"].items() if name != "vllm"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    return [r for r in map(Requirement, lines) if r.name != "neurodial"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel that is built from a copy, so that nothing an earlier build left gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "dist").iterdir()
    assert path.name == f"neurodial-{PROJECT['project']['version']}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_every_package_of_the_tree_is_listed() -> None:
    inits = (path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py"))
    in_tree = {"neurodial." + ".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(in_tree)


def test_every_folder_with_modules_is_a_package() -> None:
    modules = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    folders = {path.parent for path in modules}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_top_level_package_says_that_it_is_typed() -> None:
    assert [folder for folder in FOLDERS if not (ROOT / folder / "py.typed").exists()] == []


def test_the_namespace_has_no_init() -> None:
    assert not (ROOT / "__init__.py").exists()


def test_wheel_holds_every_module(wheel: set[str]) -> None:
    assert sorted({f"neurodial/{name}" for name in source_files()} - wheel) == []


def test_wheel_holds_the_constraints_and_the_licence(wheel: set[str]) -> None:
    assert "neurodial/deploy/constraints.txt" in wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_wheel_holds_the_demo(wheel: set[str]) -> None:
    needed = ("config.json", "model.safetensors", "source.spm", "target.spm", "vocab.json", "README.md")
    assert demo_files() >= {str(DEMO / "en-es" / name) for name in needed} | {str(DEMO / "sets/tense.safetensors")}
    assert sorted({f"neurodial/{name}" for name in demo_files()} - wheel) == []


def test_wheel_holds_the_templates_of_reports(wheel: set[str]) -> None:
    assert templates() >= {str(TEMPLATES / "page.html.j2"), str(TEMPLATES / "style.css")}
    assert sorted({f"neurodial/{name}" for name in templates()} - wheel) == []


def test_wheel_holds_nothing_else(wheel: set[str]) -> None:
    files = source_files() | demo_files() | templates() | desk_files()
    ours = {f"neurodial/{name}" for name in files} | {"neurodial/deploy/constraints.txt"}
    assert sorted(name for name in wheel - ours if ".dist-info/" not in name) == []


def test_constraints_pin_every_requirement_within_its_range() -> None:
    lines = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {pin.name.lower().replace("_", "-"): str(pin.specifier).removeprefix("==") for pin in pins}
    for needed in requirements():
        version = versions.get(needed.name.lower().replace("_", "-"))
        assert version is not None, f"{needed.name} is not in deploy/constraints.txt: make lock"
        assert version in needed.specifier, f"{needed} does not allow {version}"
        assert Version(version).local is None, f"{needed.name} {version} pins one build"


def test_installed_version_is_the_projects() -> None:
    try:
        installed = importlib.metadata.version("neurodial")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("neurodial runs from its folder, it is not installed")
    assert installed == PROJECT["project"]["version"]


def test_command_line_loads_without_ray() -> None:
    code = "import sys, neurodial.deploy.cli.main; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

"""The configuration file: defaults, relative paths, documentation, and one clear error a mistake."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from neurodial.control.errors import ConfigError
from neurodial.deploy.configuration.config import Config, load_config
from neurodial.deploy.configuration.settings import (
    AuthSettings,
    Autoscaling,
    IngressSettings,
    ModelSettings,
    StoreSettings,
)
from neurodial.deploy.serve.server import with_threads
from neurodial.service.access.limits import Limits
from neurodial.service.desk.settings import DeskSettings
from neurodial.service.observability.logs import LogSettings
from neurodial.service.vllm.settings import TableSettings

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder and a set beside the configuration."""
    (tmp_path / "model").mkdir()
    (tmp_path / "tense.safetensors").write_bytes(b"")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    """Writes a configuration file."""
    path = folder / "serve.yaml"
    path.write_text(text)
    return path


def test_defaults_and_relative_paths(folder: Path) -> None:
    """Paths start at the file; everything else has a default."""
    text = "models: [{id: a, path: model, sets: {tense: tense.safetensors}}]"
    config = load_config(write(folder, text), port=9000, host=None)
    assert (config.host, config.port) == ("127.0.0.1", 9000)
    assert config.models[0].path == str(folder / "model")
    assert config.models[0].sets == {"tense": folder / "tense.safetensors"}
    assert config.limits == Limits()


def test_a_store_s_folder_starts_at_the_file_and_a_uri_stays(folder: Path) -> None:
    """Written as a string or in full."""
    for store, uri in (
        ("sets", str(folder / "sets")),
        ("{uri: ./sets}", str(folder / "sets")),
        ("s3://bucket/sets", "s3://bucket/sets"),
        ("{uri: /srv/sets, max_bytes: 5000}", "/srv/sets"),
    ):
        config = load_config(write(folder, f"{{models: [{{id: a, path: model}}], store: {store}}}"))
        assert config.store is not None
        assert config.store.uri == uri
    assert load_config(write(folder, "models: [{id: a, path: model}]")).store is None


def test_keys_start_at_the_file_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or come from the environment; without either there are none."""
    keys = "[{name: anna, key: a-key-of-some-length, admin: true}]"
    (folder / "keys.yaml").write_text(keys)
    monkeypatch.setenv("THE_KEYS", keys)
    for auth in ("{keys_file: keys.yaml}", "{keys_env: THE_KEYS}"):
        config = load_config(write(folder, f"{{models: [{{id: a, path: model}}], auth: {auth}}}"))
        found = config.auth.keys()
        assert found is not None
        assert found.authenticate(b"a-key-of-some-length") is not None
    assert load_config(write(folder, "models: [{id: a, path: model}]")).auth.keys() is None


MISTAKES = [
    ("models: [{id: a, path: model", "not YAML"),
    ("- just a list", "not a mapping"),
    ("port: 8000", "models"),
    ("models: []", "models"),
    ("models: [{path: model}]", "models[0].id"),
    ("models: [{id: a, path: ./missing}]", "models[0]: path ./missing does not exist"),
    ("models: [{id: a, path: missing}]", "does not exist"),
    ("models: [{id: a, path: model, dtype: float8}]", "models[0].dtype"),
    ("models: [{id: a, path: model, replica: 2}]", "models[0].replica: there is no such setting"),
    ("models: [{id: a, path: model, sets: {x: missing.safetensors}}]", "models[0].sets.x"),
    ("models: [{id: a, path: model}, {id: a, path: model}]", "same id"),
    ("{models: [{id: a, path: model}], port: 99999}", "port"),
    ("{models: [{id: a, path: model}], limits: {max_tokens: 0}}", "limits.max_tokens"),
    ("{models: [{id: a, path: model, max_waiting: 5}]}", "max_waiting of a"),
    ("{models: [{id: a, path: model}], auth: {keys_file: k.yaml, keys_env: K}}", "either keys_file or keys_env"),
    ("{models: [{id: a, path: model}], auth: {keys: [{name: a, key: b}]}}", "auth.keys: there is no such setting"),
    ("{models: [{id: a, path: model}], store: {uri: sets, max_bytes: 1}}", "store.max_bytes"),
    ("{models: [{id: a, path: model}], store: ''}", "store.uri"),
    ("models: [{id: a, path: model, engine: sglang}]", "models[0].engine"),
    ("models: [{id: a, path: model, tables: {slots: 4}}]", "tables is not for engine: native"),
    ("models: [{id: a, path: model, engine: vllm, threads: 2}]", "threads is not for engine: vllm"),
    ("models: [{id: a, path: model, engine: vllm, tables: {neurons: 0}}]", "models[0].tables.neurons"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_mistakes_name_file_and_field(folder: Path, text: str, said: str) -> None:
    """One line, with the file."""
    with pytest.raises(ConfigError) as refused:
        load_config(write(folder, text))
    assert said in refused.value.message
    assert "serve.yaml" in refused.value.message
    assert "\n" not in refused.value.message


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    """A hint at the demo."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")


def settings() -> Iterator[tuple[type[BaseModel], str]]:
    """Every setting there is."""
    for model in (
        Config,
        IngressSettings,
        Autoscaling,
        ModelSettings,
        TableSettings,
        StoreSettings,
        AuthSettings,
        LogSettings,
        DeskSettings,
        Limits,
    ):
        for name in model.model_fields:
            yield model, name


@pytest.mark.parametrize(("model", "name"), list(settings()), ids=lambda value: getattr(value, "__name__", value))
def test_every_setting_is_documented(model: type[BaseModel], name: str) -> None:
    """In the code and on the page, with its default."""
    field = model.model_fields[name]
    assert field.description
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}`")]
    assert rows, f"docs/reference/configuration.md does not mention {name}"
    if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
        shown = f"{field.default:,}".replace(",", "_") if isinstance(field.default, int) else str(field.default)
        assert any(shown in row or str(field.default) in row for row in rows), f"{name}: the default is {shown}"


def test_the_page_s_example_is_valid(tmp_path: Path) -> None:
    """Every key of the example exists."""
    example = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    raw = yaml.safe_load(example)
    (tmp_path / raw["models"][0]["path"]).mkdir(parents=True)
    for file in raw["models"][0]["sets"].values():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    assert load_config(write(tmp_path, example)).models[0].id == raw["models"][0]["id"]


def test_cores_are_shared_among_engines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a model says how many threads it wants."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    text = "models: [{id: a, path: model, replicas: 3}, {id: b, path: model, threads: 5}]"
    assert [m.threads for m in with_threads(load_config(write(folder, text))).models] == [2, 5]

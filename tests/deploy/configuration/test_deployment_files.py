"""The files that put Neurodial on machines, as far as they can be checked without those machines."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve._private.build_app import build_app
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from neurodial.control.errors import ConfigError
from neurodial.deploy import proxy
from neurodial.deploy.application import build
from neurodial.deploy.serve.environment import SERVING

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
MANIFEST: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
CONFIGS: dict[str, dict[str, Any]] = {
    "serve-config.yaml": yaml.safe_load((DEPLOY / "serve-config.yaml").read_text()),
    "kuberay.yaml": yaml.safe_load(MANIFEST["spec"]["serveConfigV2"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_serve_reads_its_configuration(name: str) -> None:
    """By its own schema."""
    schema = ServeDeploySchema.model_validate(CONFIGS[name])
    (application,) = schema.applications
    module, _, attribute = application.import_path.partition(":")
    assert getattr(import_module(module), attribute) is build
    for found, known in (
        (CONFIGS[name], ServeDeploySchema),
        (CONFIGS[name]["applications"][0], ServeApplicationSchema),
        (CONFIGS[name]["applications"][0]["deployments"][0], DeploymentSchema),
        (CONFIGS[name]["http_options"], HTTPOptionsSchema),
        (CONFIGS[name]["logging_config"], LoggingConfig),
    ):
        assert set(found) <= set(known.model_fields), "Serve ignores settings that it does not know"


@pytest.mark.demo
@pytest.mark.parametrize("name", CONFIGS)
def test_the_application_is_built_from_the_configuration(name: str, tmp_path: Path) -> None:
    """With the deployments that the configuration overrides, whose `user_config` the ingress understands."""
    from neurodial.deploy.configuration.config import demo_config, parse_live

    (application,) = CONFIGS[name]["applications"]
    args = dict(application["args"])
    args.pop("auth", None)  # its file is on the cluster
    built = build_app(build(args), name="neurodial")
    deployments = {deployment.name: deployment for deployment in built.deployments}
    assert set(deployments) == {"ingress", "engine-en-es", "engine-en-es-half", "engine-en-lm", "hub"}
    assert built.ingress_deployment_name == "ingress"
    for override in application["deployments"]:
        assert override["name"] in deployments
        live = parse_live(override["user_config"], demo_config())
        assert live.limits.max_tokens == override["user_config"]["limits"]["max_tokens"]
        assert live.sets["en-es"], "what a user_config leaves out is as the configuration says"


def test_mistakes_in_the_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"args: models\[0\].replica: there is no such setting"):
        build({"models": [{"id": "a", "path": "org/name", "replica": 2}]})


def test_replicas_and_time_outs_reach_serve() -> None:
    """A number or autoscaling, for each model and for the ingress; queues of Serve that never refuse by themselves."""
    args = {
        "models": [
            {"id": "org/a", "path": "org/a", "replicas": 3, "device": "cuda", "max_waiting": 200, "max_batch": 8},
            {"id": "b", "path": "org/b", "replicas": {"min": 1, "max": 4, "target_ongoing_requests": 7}},
        ],
        "ingress": {"replicas": {"max": 2}, "max_requests": 50},
        "graceful_shutdown_s": 33,
        "health_check_period_s": 3,
    }
    deployments: dict[str, Any] = {d.name: d for d in build_app(build(args), name="neurodial").deployments}
    first, second, ingress = (deployments[name] for name in ("engine-org-a", "engine-b", "ingress"))
    assert (first.num_replicas, first.ray_actor_options["num_gpus"]) == (3, 1)
    assert first.max_ongoing_requests > 208
    scaling = second._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 4, 7)
    assert ingress._deployment_config.autoscaling_config.max_replicas == 2
    assert ingress.max_ongoing_requests > 50
    for deployment in (first, second, ingress):
        config = deployment._deployment_config
        assert (config.graceful_shutdown_timeout_s, config.health_check_period_s) == (33, 3)
        assert config.max_queued_requests == -1


def test_the_manifest_is_a_rayservice() -> None:
    """With what KubeRay requires of one, the same image everywhere, and room for what runs to end."""
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("ray.io/v1", "RayService")
    assert re.fullmatch(r"[a-z0-9-]+", MANIFEST["metadata"]["name"])
    cluster = MANIFEST["spec"]["rayClusterConfig"]
    pinned = re.search(r"^ray==(.*)$", (DEPLOY / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned.group(1)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all("rayStartParams" in group for group in groups)
    port = CONFIGS["kuberay.yaml"]["http_options"]["port"]
    (application,) = CONFIGS["kuberay.yaml"]["applications"]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["terminationGracePeriodSeconds"] > application["args"]["graceful_shutdown_s"]
        (container,) = pod["containers"]
        assert {"name", "image", "resources"} <= set(container)
        assert {"name": "serve", "containerPort": port} in container["ports"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        keys = Path(application["args"]["auth"]["keys_file"])
        assert str(keys.parent) in {mount["mountPath"] for mount in container["volumeMounts"]}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert MANIFEST["spec"]["rayClusterDeletionDelaySeconds"] >= application["args"]["graceful_shutdown_s"]


def test_the_manifest_s_pods_are_kubernetes() -> None:
    """By Kubernetes' own schema, unknown fields refused."""
    cluster = MANIFEST["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        template = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "ray"},
            "template": group["template"],
        }
        kubernetes_validate.validate(template, "1.30", strict=True)


def test_the_dockerfile_passes_its_linter() -> None:
    """Of hadolint, which knows Dockerfiles and the shell."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and the rest, continuations joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name, rest) for name, rest in found]


def test_the_dockerfile_copies_what_exists_and_is_not_ignored() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    assert "*" in ignore
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            for source in shlex.split(rest)[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == kept or source.startswith(f"{kept}/") for kept in let_in), source
    project = (ROOT / "pyproject.toml").read_text()
    for folder in ("control", "interpret", "service", "deploy"):
        assert f"COPY {folder} ./{folder}" in DOCKERFILE
        assert f'"neurodial.{folder}"' in project


def test_the_dockerfile_starts_what_exists() -> None:
    """The command, its options, Serve's environment; not as root; with a check that asks for what we serve."""
    from typer.testing import CliRunner

    from neurodial.deploy.cli.main import app

    steps = instructions()
    entry = [rest for name, rest in steps if name == "ENTRYPOINT"]
    command = [rest for name, rest in steps if name == "CMD"]
    assert entry == ['["tini", "--", "neurodial"]']
    words = yaml.safe_load(command[-1])
    shown = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
    assert all(word in plain for word in words if word.startswith("--"))
    assert [rest for name, rest in steps if name == "USER"] == ["1000"]
    page = (ROOT / "docs" / "howto" / "operate.md").read_text()
    assert [f"{name}={value}" in text for name, value in SERVING.items() for text in (DOCKERFILE, page)] == [True] * 10
    module, _, attribute = proxy.CALLBACK.partition(":")
    assert len(getattr(import_module(module), attribute)()) == 1
    checks = [rest for name, rest in steps if name == "HEALTHCHECK"]
    assert len(checks) == 1
    assert "http://127.0.0.1:8000/health" in checks[0]
    assert "wget" in next(rest for name, rest in steps if name == "RUN" and "apt-get" in rest)


def test_the_image_gets_a_wheel_and_pins() -> None:
    """Not a folder to import from, and the versions that were tried."""
    assert "pip wheel" in DOCKERFILE
    assert "PYTHONPATH" not in DOCKERFILE
    assert "-c /srv/constraints.txt" in DOCKERFILE
    assert re.search(r"^torch==", (DEPLOY / "constraints.txt").read_text(), re.M)

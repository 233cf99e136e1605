"""The Ray Serve application: one ingress deployment in front of one engine deployment per model.

Modules that import Ray are loaded when a server starts, not before; offline commands run without it.
"""

from typing import Any

from ray import serve
from ray.serve.schema import LoggingConfig

from neurodial.deploy.configuration.config import Config, demo_config, deployment_name, live_settings, parse_config
from neurodial.deploy.configuration.settings import Autoscaling, ModelSettings
from neurodial.deploy.serve.hub import hub_deployment
from neurodial.deploy.serve.ingress import Ingress
from neurodial.deploy.serve.replica import EngineReplica

QUIET_LOGS = LoggingConfig(enable_access_log=False, log_level="WARNING")

# Requests beyond the queues' limits are refused by the ingress and by the engines themselves, in OpenAI's envelope;
# Serve holds its own refusal, which is plain text, back for more than these places.
_ROOM_FOR_REFUSALS = 1000


def build_application(config: Config) -> serve.Application:
    """Binds a configuration to deployments."""
    hub = hub_deployment(QUIET_LOGS)
    engines = {model.id: _engine_deployment(config, model, hub) for model in config.models}
    ingress: Any = serve.deployment(
        Ingress,
        name="ingress",
        ray_actor_options={"num_cpus": config.ingress.num_cpus},
        max_ongoing_requests=config.ingress.max_requests + _ROOM_FOR_REFUSALS,
        user_config=live_settings(config),
        **_scaling(config.ingress.replicas),
        **_life(config),
    )
    bound: serve.Application = ingress.bind(engines, config, hub)
    return bound


def build(args: dict[str, Any]) -> serve.Application:
    """Builds the application for `serve run`, `serve deploy` and KubeRay, as `import_path` of Serve's configuration.

    Args:
        args: the settings of docs/reference/configuration.md, or `demo: true` with those that differ; paths are those
            of the cluster's machines. The address is that of Serve's own `http_options`, so the application takes
            everybody for a stranger unless `host` says that only this machine can connect.

    Raises:
        ConfigError: naming the field.
    """
    settings = {"host": "0.0.0.0", **args}
    if settings.pop("demo", False):
        return build_application(demo_config(**settings))
    return build_application(parse_config(settings, name="args", base=None))


def _engine_deployment(config: Config, model: ModelSettings, hub: serve.Application) -> serve.Application:
    deployment: Any = serve.deployment(
        EngineReplica,
        name=deployment_name(model.id),
        **place(model),
        max_ongoing_requests=model.max_waiting + model.max_batch + _ROOM_FOR_REFUSALS,
        **_scaling(model.replicas),
        **_life(config),
    )
    bound: serve.Application = deployment.bind(model, config, hub)
    return bound


def place(model: ModelSettings) -> dict[str, Any]:
    """What Ray reserves for one engine: of a model over several GPUs a place beside the engine for each process."""
    if model.ranks == 1:
        return {"ray_actor_options": {"num_cpus": model.num_cpus, "num_gpus": model.gpus}}
    rank = {"GPU": 1.0} if model.gpus else {"CPU": 1.0}
    bundles = [{"CPU": model.num_cpus, **rank}, *([rank] * (model.ranks - 1))]
    return {
        "ray_actor_options": {"num_cpus": model.num_cpus},
        "placement_group_bundles": bundles,
        "placement_group_strategy": "PACK",
    }


def _scaling(replicas: int | Autoscaling) -> dict[str, Any]:
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": replicas.target_ongoing_requests,
            "upscale_delay_s": replicas.upscale_delay_s,
            "downscale_delay_s": replicas.downscale_delay_s,
        }
    }


def _life(config: Config) -> dict[str, Any]:
    return {
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": config.health_check_timeout_s,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "logging_config": QUIET_LOGS,
    }

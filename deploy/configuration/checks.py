"""What can be known of a configuration on this machine before anything has started."""

from neurodial.control.errors import ConfigError, ModelError
from neurodial.control.models.places import check_place
from neurodial.deploy.configuration.config import Config


def check_models(config: Config) -> None:
    """Refuses models that cannot be loaded here; those of a cluster's machines cannot be looked at from here.

    Raises:
        ConfigError: naming the field: a folder that is missing or damaged, a hub that cannot be asked, no such device.
    """
    if config.ray_address != "local":
        return
    for number, model in enumerate(config.models):
        for setting, check in (("path", check_place), ("device", _check_device)):
            try:
                check(getattr(model, setting))
            except ModelError as error:
                field = f"models[{number}].{setting}"
                raise ConfigError(f"{field}: {error.message}", hint=error.hint, param=field) from None


def _check_device(device: str) -> None:
    if device != "cpu":
        from neurodial.control.models.loading import check_device

        check_device(device)

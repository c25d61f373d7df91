"""What a user may say: schema, loader, recipes, model dimensions. Imports neither Ray nor torch."""

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.loader import load_config, parse_config
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.configs.version import VERSION

__all__ = ["VERSION", "ConfigError", "WarmupConfig", "load_config", "parse_config"]

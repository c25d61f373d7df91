"""What a user may say: schema, loader, recipes, model dimensions. Imports neither Ray nor torch."""

from configs.errors import ConfigError
from configs.loader import load_config, parse_config
from configs.schema import WarmupConfig
from configs.version import VERSION

__all__ = ["VERSION", "ConfigError", "WarmupConfig", "load_config", "parse_config"]

"""Engines that a warmup starts, records and proves. No other package of `warmup` imports them."""

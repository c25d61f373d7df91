"""Engines that a warmup starts, records and proves; no other package of `warmup` imports them."""

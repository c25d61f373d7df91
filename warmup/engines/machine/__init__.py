"""The pure state machine of a run with a real engine: which launcher is asked what next. Knows neither Ray nor vLLM."""

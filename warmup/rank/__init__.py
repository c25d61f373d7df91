"""One rank's process: what it does in each phase (`process.py`), what it keeps of itself, what is predicted of it."""

"""Process of one rank: its phases (`process.py`), its records, and the prediction of both."""

"""Measures what the README says about speed, on the machine at hand: `python -m lab.bench --help`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells of its beginning and end

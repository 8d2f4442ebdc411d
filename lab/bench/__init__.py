"""Measures what the README says about speed, on the machine at hand: `python -m lab.bench --help`."""

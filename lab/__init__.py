"""Localization heads: the rooms behind `pipeline.py`. README.md tells them apart."""

__version__ = "0.2.0"

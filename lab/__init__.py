"""Localization heads: the rooms behind `pipeline.py`. README.md tells them apart."""

from lab.base.signals import end_at_once, is_command

if is_command("lab"):
    end_at_once()  # of Ctrl-C while a module that is run, python -m lab.app, imports what it needs

__version__ = "0.2.0"

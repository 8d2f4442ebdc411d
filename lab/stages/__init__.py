"""The stages: one file for each."""

"""Attention rows kept while a model runs, and several expressions behind one picture."""

"""The parts that viz.py's figures are made of."""

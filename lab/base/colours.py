"""Colours that colour-blind readers tell apart, for things that are drawn side by side."""

APART = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito's

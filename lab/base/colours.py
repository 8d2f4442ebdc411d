"""Colours that colour-blind readers tell apart (Okabe and Ito's), and the ink of figures."""

VERMILION, BLUE, GREEN, PURPLE, SKY, ORANGE = "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
APART = (VERMILION, BLUE, GREEN, PURPLE, SKY, ORANGE)  # for things that are drawn side by side
INK, EDGE = "#222222", "#999999"

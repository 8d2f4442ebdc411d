"""The colours of what is found, for figures and page alike: for colour-blind readers and in grey print too."""

BOX_COLOUR, MASK_COLOUR = "#0072b2", "#ffc400"  # blue, cased in white; yellow, cased in black
INK, EDGE = "#222222", "#999999"

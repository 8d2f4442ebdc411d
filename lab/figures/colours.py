"""The colours of what is found, for figures and page alike: for colour-blind readers and in grey print too."""

from lab.base.colours import BLUE, EDGE, INK, VERMILION

__all__ = ["BOX_COLOUR", "EDGE", "INK", "MASK_COLOUR", "REFINED_COLOUR"]

BOX_COLOUR, MASK_COLOUR = BLUE, "#ffc400"  # blue, cased in white; yellow, cased in black
REFINED_COLOUR = VERMILION  # cased in black

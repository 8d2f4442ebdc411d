"""How good boxes, masks and points are, with intervals and controls."""

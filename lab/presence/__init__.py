"""Whether the described thing is in the picture: a probability from what the chosen heads do."""

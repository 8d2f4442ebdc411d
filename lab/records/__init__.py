"""Records: the attention of one sample, its files, and reading them without trusting them."""

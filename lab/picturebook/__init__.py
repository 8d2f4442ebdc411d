"""The picture-book world: drawn scenes with exact masks, expressions about them, and a tiny LLaVA trained on both."""

"""The configuration: presets as YAML, and the typed schema behind them."""

"""Files of heads, and heads that are selected again and again."""

"""The live page: a picture, an expression, and what every head of the model looks at."""

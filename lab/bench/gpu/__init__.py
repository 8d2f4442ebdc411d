"""One script for one GPU: how fast a model of a real shape is asked, what memory that takes, what the card could do."""

"""The bulk run: reading ahead, batches that fit memory, writing behind, resuming."""

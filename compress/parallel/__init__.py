"""Several processes at one batch: splitting it, synchronising results, and layers that need the whole batch."""

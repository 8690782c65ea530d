"""Files: written atomically, sealed with checksums, locked, and read from strangers within limits."""

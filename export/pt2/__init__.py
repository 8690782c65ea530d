"""``.pt2`` files (exported programs): writing, and reading without running code from the file."""

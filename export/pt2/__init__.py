"""``.pt2`` files: exported programs, written, and read without running code that they bring."""

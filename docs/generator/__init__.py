"""Makes pages of the documentation from what the code declares."""

"""Which model version is served, and whether its files are whole."""

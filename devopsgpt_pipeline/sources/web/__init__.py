"""Polite fetching: one page from the web, with robots.txt, pauses, limits and honest errors."""

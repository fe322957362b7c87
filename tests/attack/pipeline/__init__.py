"""Attacks on the scraper, the home and its backups."""

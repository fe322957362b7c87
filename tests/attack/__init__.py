"""Attacks on the service, the scraper, the home and the deployment; on loopback only, bounded."""

"""Attacks on the service: its connections, requests, versions and registry."""

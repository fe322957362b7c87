"""What keeps an installation healthy: backup, restore, retention, the run launcher."""

"""One yardstick for every model: measurements, comparison, memorization, benchmarks,
leaderboard."""

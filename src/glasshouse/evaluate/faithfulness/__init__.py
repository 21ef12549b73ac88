"""Is the map right about what the score depends on? Scores from removing and restoring parts of an image."""

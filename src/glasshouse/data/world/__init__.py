"""The scene world: rendered images whose whole truth is known."""

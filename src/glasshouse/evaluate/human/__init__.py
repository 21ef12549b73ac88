"""Does the explanation help somebody? Forms for people, and simulated students."""

"""Single units and how they are wired: stimuli, tuning, weights, edits, and a network written by hand."""

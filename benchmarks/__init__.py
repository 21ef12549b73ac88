"""Speed beside the peers and beside the hardware's own limit, as ratios: `python -m benchmarks`."""

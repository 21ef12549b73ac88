"""Methods and metrics held against what is known to be true."""

"""Network Dissection: which units detect which concepts, in words of one and of several."""

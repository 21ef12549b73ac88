"""What each method explains, in which form, at what cost, with which claims, and how it can be put to the test."""

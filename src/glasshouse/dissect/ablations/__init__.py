"""What a network loses without some of its units."""

"""Units that act together: factors, dictionaries, vocabularies."""

"""Is what is said of units, parts, concepts and stand-in models true?"""

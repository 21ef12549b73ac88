"""Does the map depend on what the model has learnt, and on the class it is asked about?"""

"""Does the map stay where the image, the seed or the noise hardly changed?"""

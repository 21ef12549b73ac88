"""Does the map lie where a mask says the object is? Agreement with a mask, which need not be what the model uses."""

"""What a model is worth, in numbers: one small file of measures each, and the command that prints them."""

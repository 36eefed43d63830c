"""The methods, one a file: its parameters, how these start, and what they do to a layer."""

"""One run as one HTML file that needs nothing else: curves, samples token by token, time and memory by phase."""

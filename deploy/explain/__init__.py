"""``slimsight explain``: what a run's original and slim model look at in images."""

"""``slimsight trust``: tests of explanations, run on a finished run's model."""

"""YAML from strangers: places with their lines, what a schema allows there, and every mistake in one answer."""

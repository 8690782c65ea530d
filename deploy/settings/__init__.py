"""Recipes and other YAML files: parsed with line numbers, validated, every mistake reported at once."""

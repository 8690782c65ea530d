"""The stages of a run: each reads files of earlier stages and returns figures and files."""

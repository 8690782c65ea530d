"""The stages of a run: each reads files of earlier ones, works, and says what it found."""

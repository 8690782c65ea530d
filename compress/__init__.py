"""Learn what to remove from a trained CNN, remove it, and prove that nothing else changed."""

"""Time, budget, report, and run everything."""

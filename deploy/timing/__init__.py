"""Latency measurement: interleaved rounds of calls, and their quantiles, intervals and noise."""

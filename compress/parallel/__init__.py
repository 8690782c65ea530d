"""Distributed data parallelism: collectives, slices of a batch per process, batch statistics over all processes."""

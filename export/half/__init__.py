"""FP16: conversion of an ONNX graph, which values overflow, and the graph that an engine is built from."""

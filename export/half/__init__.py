"""FP16: conversion of ONNX graphs, values that overflow, and the checked graph in FP32 or FP16."""

"""Export of dynamic (DRIB) models to ONNX, with branches that compute only the channels of an image's route."""

"""Dynamic (DRIB) models as ONNX: branches that compute only what an image's route needs."""

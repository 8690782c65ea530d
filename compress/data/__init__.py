"""Images: read once from where they are, split the same way every time, augmented on the batch tensor."""

from .batches import Batch, Batches
from .images import ImageSet, Rows
from .splits import Splits, open_splits

__all__ = ["Batch", "Batches", "ImageSet", "Rows", "Splits", "open_splits"]

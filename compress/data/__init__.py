"""Images: read once from where they are, split the same way every time, augmented on the batch tensor."""

from .batches import Batch, Batches, Share, all_rows, batches_of, rows_of
from .file_batches import FileBatches, to_batches
from .flow import Flow
from .images import ImageSet, Rows
from .loader import BatchSource, LoaderBatches, TensorBatches, first_images, one_pass
from .on_the_fly import FileImages
from .splits import Splits, open_splits

__all__ = [
    "Batch",
    "BatchSource",
    "Batches",
    "FileBatches",
    "FileImages",
    "Flow",
    "ImageSet",
    "LoaderBatches",
    "Rows",
    "Share",
    "Splits",
    "TensorBatches",
    "all_rows",
    "batches_of",
    "first_images",
    "one_pass",
    "open_splits",
    "rows_of",
    "to_batches",
]

"""Image data sets: decoding and caching, train/val/test splits, augmentation, batches and their sharding."""

from .batches import Batch, Batches, Sharding, all_rows, round_robin, shard_rows
from .content import content_key
from .file_batches import FileBatches, to_batches
from .flow import Flow
from .images import ImageSet, Rows
from .loader import BatchSource, Expected, LoaderBatches, TensorBatches, first_batches, first_images, one_pass
from .on_the_fly import FileImages
from .preprocessing import Preprocessing
from .splits import Splits, open_splits
from .subsample import Subsample

__all__ = [
    "Batch",
    "BatchSource",
    "Batches",
    "Expected",
    "FileBatches",
    "FileImages",
    "Flow",
    "ImageSet",
    "LoaderBatches",
    "Preprocessing",
    "Rows",
    "Sharding",
    "Splits",
    "Subsample",
    "TensorBatches",
    "all_rows",
    "content_key",
    "first_batches",
    "first_images",
    "one_pass",
    "open_splits",
    "round_robin",
    "shard_rows",
    "to_batches",
]

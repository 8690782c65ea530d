import torch

from slimsight.compress.data.file_batches import BufferPool


def test_memory_serves_again_when_nobody_holds_it() -> None:
    memory = BufferPool((4, 2, 3))
    first = memory.take(4)
    assert (first.shape, first.dtype) == ((4, 2, 3), torch.uint8)
    place = first.data_ptr()
    del first
    again = memory.take(3)  # the last batch of an epoch is smaller
    assert again.shape == (3, 2, 3)
    assert again.data_ptr() == place


def test_memory_that_a_view_shares_is_left_alone() -> None:
    memory = BufferPool((4, 2, 3))
    taken = memory.take(4).fill_(7)
    views = {"permuted": taken.permute(1, 0, 2), "numpy": taken.numpy()[1:], "storage": taken.untyped_storage()}
    del taken
    while views:
        other = memory.take(4)
        other.fill_(0)
        assert all(bool((torch.as_tensor(view) == 7).all()) for name, view in views.items() if name != "storage")
        place = other.data_ptr()
        del other
        views.popitem()
    held = memory.take(4)
    assert memory.take(4).data_ptr() == place
    assert held.data_ptr() != place

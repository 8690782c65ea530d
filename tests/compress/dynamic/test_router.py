import torch
from torch.nn import functional as F

from slimsight.compress.dynamic import Router
from slimsight.compress.dynamic.routing import MIN_KEPT_MASK


def test_training_choices_are_one_hot_and_pass_gradients_to_the_head() -> None:
    torch.manual_seed(0)
    router = Router(6, 5, 4)
    x = torch.rand(32, 6, 3, 3)
    router.init_head_(router.features(x))
    with torch.no_grad():
        router.masks.copy_(torch.rand(4, 5))
    choices = router.choose(router.score(x), 0.7)
    assert torch.allclose(choices.sum(1), torch.ones(32))
    assert choices.detach().max(1).values.allclose(torch.ones(32))
    assert len(choices.argmax(1).unique()) > 1
    (choices @ router.masks).square().sum().backward()
    assert router.head.weight.grad is not None
    assert router.head.weight.grad.abs().sum() > 0


def test_a_mask_learns_only_from_the_images_that_chose_it() -> None:
    router = Router(6, 5, 4).eval()
    choices = F.one_hot(torch.tensor([1, 1, 3]), 4).float()
    (choices @ router.masks).sum().backward()
    assert router.masks.grad is not None
    assert router.masks.grad[:, 0].tolist() == [0, 2, 0, 1]


def test_a_cold_choice_is_the_largest_score() -> None:
    torch.manual_seed(0)
    router = Router(6, 5, 4)
    scores = torch.randn(200, 4)
    assert torch.equal(router.choose(scores, None).argmax(1), scores.argmax(1))
    cold = router.choose(scores, 1e-4).argmax(1)
    assert (cold == scores.argmax(1)).float().mean() > 0.99
    # Temperature counts in spreads of the scores: their scale changes nothing.
    torch.manual_seed(1)
    one = router.choose(scores, 0.5)
    torch.manual_seed(1)
    assert torch.allclose(one, router.choose(1000 * scores, 0.5), atol=1e-5)


def test_rows_have_length_one_and_lie_across_the_mean() -> None:
    torch.manual_seed(0)
    router = Router(6, 5, 4)
    features = torch.rand(100, 6) + 3
    router.init_head_(features)
    assert torch.allclose(router.head.weight.norm(dim=1), torch.ones(4), atol=1e-6)
    assert (router.head.weight @ features.mean(0)).abs().max() < 1e-4
    taken = torch.bincount((features @ router.head.weight.T).argmax(1), minlength=4)
    assert taken.min() >= 10  # of 100: no mask is left without images
    with torch.no_grad():
        router.head.weight.add_(1.0)
    router.project_()
    assert (router.head.weight @ features.mean(0)).abs().max() < 1e-4


def test_mask_values_stay_in_their_range() -> None:
    router = Router(6, 3, 2)
    router.keep[0, 0] = False
    with torch.no_grad():
        router.masks.copy_(torch.tensor([[2.0, -1.0, 9.0], [0.5, 0.0, 1.0]]))
    router.project_()
    assert router.masks.tolist() == [[0, 0, 5], [0.5, 0, 1]]
    router.hard = True
    router.project_()
    assert torch.allclose(router.masks, torch.tensor([[0, MIN_KEPT_MASK, 5], [0.5, MIN_KEPT_MASK, 1]]))

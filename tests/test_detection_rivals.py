"""Rivals of a bank: their scores by hand, and thresholds like its own."""

import copy

import numpy as np
import pytest
import torch
from detection_scene import Watched, halves, watched
from scipy import ndimage
from sklearn.covariance import LedoitWolf

from orchestrator.detection.measures import auroc
from orchestrator.detection.rivals.disagreement import Disagreement
from orchestrator.detection.rivals.mahalanobis import Mahalanobis, read_features
from orchestrator.detection.rivals.rival import CalibratedRival
from orchestrator.detection.rivals.squeezing import FeatureSqueezing, fewer_colours, median_filtered
from orchestrator.errors import DataError, StudyError


@pytest.fixture(scope="module")
def scene() -> Watched:
    return watched()


def tuned_further(model, scene):
    """A second opinion: the model, trained a little more from other weights."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return other


def rivals(scene):
    return {
        "squeezing": FeatureSqueezing(model=scene.model, bits=3, batch=16),
        "mahalanobis": Mahalanobis.fitted(scene.model, halves(scene.clean["fit"]), batch=16),
        "disagreement": Disagreement(model=scene.model, other=tuned_further(scene.model, scene), batch=16),
    }


# Squeezing is made for natural images, and tells nothing where the noise is as large as the patterns.
@pytest.mark.parametrize(
    ("name", "least"), [("squeezing", 0.35), ("mahalanobis", 0.6), ("disagreement", 0.6)]
)
def test_every_rival_has_thresholds_of_held_out_images_and_no_neighbours(scene, name, least):
    rival = CalibratedRival.on(rivals(scene)[name], halves(scene.clean["held-out"]), 40)
    images = scene.clean["test"].images
    clean, attacked = rival.judge(images, rate=0.05), rival.judge(scene.attacked["test"].images, rate=0.05)
    assert clean.flag.double().mean() < 0.15
    assert clean.score.dtype == torch.float64
    found = auroc(clean.score, attacked.score, resamples=100)
    assert found.rate > least
    part = rival.judge(images[5:9], rate=0.05)
    assert torch.equal(part.score, clean.score[5:9])
    assert torch.equal(part.p_value, clean.p_value[5:9])
    assert rival.judge(images[:0], rate=0.05).flag.shape == (0,)
    with pytest.raises(StudyError, match="false-positive rate"):
        rival.judge(images, rate=0.001)
    with pytest.raises(DataError, match="no held-out clean images"):
        CalibratedRival.on(rival.rival, [], 40)


def test_squeezers_are_a_median_filter_and_fewer_colours(scene):
    images = scene.clean["test"].images[:2].double()
    for window in (2, 3):
        wanted = ndimage.median_filter(images.numpy(), size=(1, 1, window, window), mode="mirror")
        torch.testing.assert_close(median_filtered(images, window), torch.from_numpy(wanted))
    assert len(fewer_colours(images, 2).unique()) <= 4
    assert (fewer_colours(images, 8) - images).abs().max() <= 0.5 / 255 + 1e-9


def test_squeezing_scores_how_far_the_probabilities_move_at_most(scene):
    images = scene.attacked["test"].images[:5]
    classes, scores = FeatureSqueezing(model=scene.model, bits=3, batch=16).scores(images)
    squeezed = (images, fewer_colours(images, 3), median_filtered(images, 2))
    chances = [scene.model(each).double().softmax(dim=1).detach() for each in squeezed]
    apart = [(each - chances[0]).abs().sum(dim=1) for each in chances[1:]]
    torch.testing.assert_close(scores, -torch.maximum(*apart), rtol=1e-4, atol=1e-6)
    assert torch.equal(classes, chances[0].argmax(dim=1))


def test_disagreement_is_what_the_other_model_gives_the_class_read(scene):
    images = scene.attacked["test"].images[:5]
    other = tuned_further(scene.model, scene)
    classes, scores = Disagreement(model=scene.model, other=other, batch=16).scores(images)
    wanted = other(images).double().log_softmax(dim=1)[torch.arange(5), classes].detach()
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(classes, scene.model(images).argmax(dim=1))


def test_mahalanobis_is_the_distance_in_the_last_features(scene):
    clean = scene.clean["fit"]
    rival = Mahalanobis.fitted(scene.model, halves(clean), batch=16)
    logits, features = read_features(scene.model, clean.images, 16)
    torch.testing.assert_close(logits.float(), scene.model(clean.images))
    head = scene.model.backbone.head
    torch.testing.assert_close(head(features.float()).double(), logits)
    right = logits.argmax(dim=1) == clean.labels
    used, labels = features[right].detach().numpy(), clean.labels[right].numpy()
    means = np.stack([used[labels == c].mean(axis=0) for c in range(3)])
    precision = LedoitWolf(assume_centered=True).fit(used - means[labels]).precision_
    shown, found = rival.scores(scene.attacked["test"].images[:3])
    apart = read_features(scene.model, scene.attacked["test"].images[:3], 16)[1].numpy() - means[shown]
    np.testing.assert_allclose(found, -np.einsum("if,fg,ig->i", apart, precision, apart), rtol=1e-6)
    assert not scene.model.backbone.head._forward_pre_hooks


def test_mahalanobis_needs_every_class_and_a_linear_layer(scene):
    some = scene.clean["fit"]
    rows = (some.labels != 1).nonzero()[:, 0]
    with pytest.raises(DataError, match="Class 1 has no clean image that is read right"):
        Mahalanobis.fitted(scene.model, [some.part(rows)])
    with pytest.raises(StudyError, match="no linear layer"):
        read_features(torch.nn.Flatten(), some.images, 16)

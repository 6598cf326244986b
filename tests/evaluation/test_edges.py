"""Edges that were kept, and new ones where the truth is smooth."""

import cv2
import numpy as np
import pytest
from clips import textured

from vderain.evaluation.edges import edge_scores
from vderain.evaluation.quality import luma, quality
from vderain.train.data.lettering import with_lettering


def signs(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A soft background with signs, (160, 240, 3), and where they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:160, :240]
    background = np.stack([90 + x / 4, 120 + y / 4, 140 - x / 8], -1).astype(np.uint8)
    picture, cover = with_lettering(background, rng, count=6)
    return picture, cover > 0


def hatched(picture: np.ndarray, levels: float) -> np.ndarray:
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return np.clip(picture + levels * np.sin((x + y) * 2 * np.pi / 7)[..., None], 0, 255).astype(np.uint8)


def test_the_truth_itself_is_perfect() -> None:
    picture, _ = signs()
    scores = edge_scores(luma(picture), luma(picture))
    assert (scores.kept, scores.new, scores.score) == (1, 0, 1)


def test_hatching_is_seen_and_the_more_of_it_the_worse() -> None:
    picture, where = signs()
    scores = [edge_scores(luma(hatched(picture, levels)), luma(picture)) for levels in (0, 25, 50)]
    assert scores[0].new == 0
    assert scores[1].new > 0.05
    assert scores[0].score > scores[1].score + 0.02 > scores[2].score + 0.04
    assert edge_scores(luma(hatched(picture, 50)), luma(picture), where).score < 0.98


def test_wiped_letters_are_lost_edges_and_nothing_new() -> None:
    picture, where = signs()
    wiped = picture.copy()
    wiped[where] = cv2.GaussianBlur(picture, (0, 0), 4)[where]
    scores = edge_scores(luma(wiped), luma(picture), where)
    assert scores.kept < 0.4
    assert scores.new < 0.01
    assert scores.score < 0.6


def test_an_inverted_letter_is_not_kept() -> None:
    truth = np.full((60, 60), 60.0)
    truth[20:40, 20:40] = 200
    assert edge_scores(260 - truth, truth).kept == 0


def test_noise_and_compression_are_no_edges() -> None:
    picture, _ = signs()
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)
    scores = edge_scores(luma(jpeg), luma(picture))
    assert scores.kept > 0.98
    assert scores.new < 0.01


def test_only_the_part_asked_for_counts() -> None:
    picture, _ = signs()
    left = np.zeros(picture.shape[:2], bool)
    left[:, :100] = True
    spoilt = picture.copy()
    spoilt[:, 120:] = hatched(picture, 60)[:, 120:]
    assert edge_scores(luma(spoilt), luma(picture), left).score == 1
    assert edge_scores(luma(spoilt), luma(picture), ~left).score < 1


def test_without_edges_none_are_lost() -> None:
    flat = np.full((40, 40), 100.0)
    assert edge_scores(flat, flat).score == 1


def test_the_scores_are_part_of_the_quality_of_a_frame() -> None:
    picture = textured(1, (64, 64))
    found = quality(cv2.GaussianBlur(picture, (0, 0), 2), picture)
    assert 0 < found.edges_kept < 1
    assert found.edges_new == pytest.approx(0, abs=0.01)

import numpy as np
import pytest
from diptych.pipeline.demo.drawing import draw_scene
from diptych.pipeline.demo.scenes import make_quadruples
from PIL import Image


@pytest.mark.parametrize("size", [1, 48, 200])
def test_a_scene_is_drawn_at_any_size(size: int) -> None:
    scene = next(make_quadruples(1, seed=0)).scenes[0]
    assert draw_scene(scene, size).size == (size, size)


def test_every_thing_is_drawn_where_the_scene_says() -> None:
    for quadruple in make_quadruples(20, seed=5):
        for scene in quadruple.scenes:
            pixels = np.asarray(draw_scene(scene, 128)).astype(int)
            for thing in scene.things:
                assert np.abs(pixels[int(thing.y * 128), int(thing.x * 128)] - thing.rgb).max() <= 2
            covered = (np.abs(pixels - scene.background).max(-1) > 20).mean()
            assert 0 < covered < sum(np.pi * thing.radius**2 for thing in scene.things)


def test_a_larger_drawing_shows_the_same_scene() -> None:
    scene = next(make_quadruples(1, seed=7)).scenes[1]
    small = np.asarray(draw_scene(scene, 32)).astype(int)
    large = np.asarray(draw_scene(scene, 256).resize((32, 32), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - large).mean() < 3

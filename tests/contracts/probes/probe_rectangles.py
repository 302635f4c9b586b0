"""A modality of a third party: "left top right bottom; …" or a list of such fours."""

import numpy as np

from mainstem.contracts import State

MOST = 2


class Rectangles:
    def parse(self, raw, settings):
        fours = [box.split() for box in raw.split(";") if box.strip()] if isinstance(raw, str) else raw
        return tuple(tuple(float(number) for number in box) for box in fours)

    def fit(self, settings, values):
        return State()

    def encode(self, values, settings, state, rng=None):
        boxes, mask = np.zeros((len(values), MOST, 4), np.float32), np.zeros((len(values), MOST), np.float32)
        for row, value in enumerate(values):
            boxes[row, : len(value)] = np.reshape(value, (-1, 4))
            mask[row, : len(value)] = 1
        return {"boxes": boxes, "mask": mask}, {}


plugin = Rectangles()

"""What the programs share: train a network, log what it learns, and go on after the newest checkpoint when it was stopped."""

from typing import Any

import keras
from pictures import SHAPES, shapes

import mainspring as ms


def fit_classifier(network: keras.Model, *, pixels: int, epochs: int, rate: float, pictures: int = 32, batch: int = 8) -> None:
    """Train a network that ends in features to tell SHAPES apart."""
    model = keras.Sequential([network, keras.layers.Dense(len(SHAPES), activation="softmax")])
    model.build((None, pixels, pixels, 3))
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    fit(model, *shapes(pictures, pixels), epochs=epochs, batch=batch)


def fit(model: keras.Model, pictures: Any, targets: Any, *, epochs: int, batch: int) -> None:
    """Train a model that is built and compiled."""
    ms.log_params({"parameters": model.count_params(), "steps": epochs * -(-len(pictures) // batch)})
    model.fit(pictures, targets, epochs=epochs, batch_size=batch, verbose=2, callbacks=[ms.keras_callback()])

"""Inception V3 (Szegedy and others, 2015), from random weights. It takes nothing smaller than 75 pixels.

mainspring run --gpus 1 examples/vision/inception_v3.py
"""

import mainspring as ms


@ms.task(gpus=1, cpus=1, memory="3GiB")
def train(epochs: int = 5, pixels: int = 75, rate: float = 0.001) -> None:
    """Train, log each epoch, keep a checkpoint after each."""
    import keras
    from training import fit_classifier

    keras.utils.set_random_seed(1)
    network = keras.applications.InceptionV3(weights=None, include_top=False, pooling="avg", input_shape=(pixels, pixels, 3))
    fit_classifier(network, pixels=pixels, epochs=epochs, rate=rate)


if __name__ == "__main__":
    train()

"""Inception V4 (Szegedy and others, 2016), from random weights, as inception_v4_network.py builds it. 75 pixels are the least.

mainspring run --gpus 1 examples/vision/inception_v4.py
"""

import mainspring as ms


@ms.task(gpus=1, cpus=1, memory="3GiB")
def train(epochs: int = 5, pixels: int = 75, rate: float = 0.001) -> None:
    """Train, log each epoch, keep a checkpoint after each."""
    import keras
    from inception_v4_network import inception_v4
    from training import fit_classifier

    keras.utils.set_random_seed(1)
    fit_classifier(inception_v4((pixels, pixels, 3)), pixels=pixels, epochs=epochs, rate=rate)


if __name__ == "__main__":
    train()

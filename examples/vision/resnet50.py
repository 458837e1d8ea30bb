"""ResNet50 (He, Zhang, Ren and Sun, 2015), from random weights.

mainspring run --gpus 1 examples/vision/resnet50.py
"""

import mainspring as ms


@ms.task(gpus=1, cpus=1, memory="3GiB")
def train(epochs: int = 5, pixels: int = 32, rate: float = 0.005) -> None:
    """Train, log each epoch, keep a checkpoint after each."""
    import keras
    from training import fit_classifier

    keras.utils.set_random_seed(1)
    network = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg", input_shape=(pixels, pixels, 3))
    fit_classifier(network, pixels=pixels, epochs=epochs, rate=rate)


if __name__ == "__main__":
    train()

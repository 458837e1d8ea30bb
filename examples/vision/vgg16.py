"""VGG16 (Simonyan and Zisserman, 2014), from random weights.

mainspring run --gpus 1 examples/vision/vgg16.py
"""

import mainspring as ms


@ms.task(gpus=1, cpus=1, memory="3GiB")
def train(epochs: int = 5, pixels: int = 32, rate: float = 0.01) -> None:
    """Train, log each epoch, keep a checkpoint after each."""
    import keras  # here, so that whoever only submits the task need not have TensorFlow
    from training import fit_classifier

    keras.utils.set_random_seed(1)
    network = keras.applications.VGG16(weights=None, include_top=False, pooling="avg", input_shape=(pixels, pixels, 3))
    for layer in network.layers:  # it is older than batch normalization: from weights that are too small it learns nothing
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(keras.initializers.HeUniform()(layer.kernel.shape))
    fit_classifier(network, pixels=pixels, epochs=epochs, rate=rate)


if __name__ == "__main__":
    train()

"""Inception V4 in Keras, which has none of its own.

Source: Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning"
(arXiv 1602.07261), figures 3 to 9. With 1,000 classes it has the published 42.7 million weights that are trained.
"""

from typing import Any

from keras import Input, Model, layers

Size = int | tuple[int, int]


def inception_v4(input_shape: tuple[int, int, int] = (299, 299, 3), classes: int = 0) -> Model:
    """Return the network; `classes` 0 leaves out its last layer, so that it ends in 1,536 features. 75 pixels are the least."""
    picture = Input(input_shape)
    x = _stem(picture)
    for _ in range(4):
        x = _inception_a(x)
    x = _reduction_a(x)
    for _ in range(7):
        x = _inception_b(x)
    x = _reduction_b(x)
    for _ in range(3):
        x = _inception_c(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    if classes:
        x = layers.Dense(classes, activation="softmax")(x)
    return Model(picture, x, name="inception_v4")


def _stem(x: Any) -> Any:
    x = _conv(_conv(_conv(x, 32, 3, strides=2, padding="valid"), 32, 3, padding="valid"), 64, 3)
    x = _join(_shrink(x), _conv(x, 96, 3, strides=2, padding="valid"))
    long = _conv(_conv(_conv(x, 64, 1), 64, (1, 7)), 64, (7, 1))
    x = _join(_conv(_conv(x, 64, 1), 96, 3, padding="valid"), _conv(long, 96, 3, padding="valid"))
    return _join(_conv(x, 192, 3, strides=2, padding="valid"), _shrink(x))


def _inception_a(x: Any) -> Any:
    return _join(
        _conv(_average(x), 96, 1),
        _conv(x, 96, 1),
        _conv(_conv(x, 64, 1), 96, 3),
        _conv(_conv(_conv(x, 64, 1), 96, 3), 96, 3),
    )


def _reduction_a(x: Any) -> Any:
    long = _conv(_conv(x, 192, 1), 224, 3)
    return _join(_shrink(x), _conv(x, 384, 3, strides=2, padding="valid"), _conv(long, 256, 3, strides=2, padding="valid"))


def _inception_b(x: Any) -> Any:
    long = _conv(_conv(_conv(x, 192, 1), 192, (1, 7)), 224, (7, 1))
    return _join(
        _conv(_average(x), 128, 1),
        _conv(x, 384, 1),
        _conv(_conv(_conv(x, 192, 1), 224, (1, 7)), 256, (7, 1)),
        _conv(_conv(long, 224, (1, 7)), 256, (7, 1)),
    )


def _reduction_b(x: Any) -> Any:
    short = _conv(_conv(x, 192, 1), 192, 3, strides=2, padding="valid")
    long = _conv(_conv(_conv(x, 256, 1), 256, (1, 7)), 320, (7, 1))
    return _join(_shrink(x), short, _conv(long, 320, 3, strides=2, padding="valid"))


def _inception_c(x: Any) -> Any:
    short = _conv(x, 384, 1)
    long = _conv(_conv(_conv(x, 384, 1), 448, (1, 3)), 512, (3, 1))
    return _join(
        _conv(_average(x), 256, 1),
        _conv(x, 256, 1),
        _conv(short, 256, (1, 3)),
        _conv(short, 256, (3, 1)),
        _conv(long, 256, (1, 3)),
        _conv(long, 256, (3, 1)),
    )


def _conv(x: Any, filters: int, size: Size, *, strides: int = 1, padding: str = "same") -> Any:
    x = layers.Conv2D(filters, size, strides=strides, padding=padding, use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(epsilon=1e-3, momentum=0.9)(x))


def _shrink(x: Any) -> Any:
    return layers.MaxPooling2D(3, strides=2)(x)


def _average(x: Any) -> Any:
    return layers.AveragePooling2D(3, strides=1, padding="same")(x)


def _join(*branches: Any) -> Any:
    return layers.Concatenate()(branches)

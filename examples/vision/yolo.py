"""YOLOv8 (nano) on Keras, by kyolo, from random weights: which shapes a picture has, and where.

mainspring run --gpus 1 examples/vision/yolo.py
"""

import mainspring as ms


@ms.task(gpus=1, cpus=1, memory="3GiB")
def train(epochs: int = 5, pixels: int = 64, rate: float = 0.002) -> None:
    """Train, log each epoch, keep a checkpoint after each."""
    import keras
    from kyolo import YOLODetector, yolov8n
    from pictures import SHAPES, scenes
    from training import fit

    keras.utils.set_random_seed(1)
    detector = YOLODetector(yolov8n(nc=len(SHAPES), input_shape=(pixels, pixels, 3)))
    pictures, found = scenes(32, pixels)
    detector(pictures[:1])  # builds it, so that a checkpoint can be read into it
    detector.compile(optimizer=keras.optimizers.Adam(rate))
    fit(detector, pictures, found, epochs=epochs, batch=8)


if __name__ == "__main__":
    train()

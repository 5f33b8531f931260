"""One row of numbers per epoch, in a file that any program reads."""

import keras


class EpochLog(keras.callbacks.CSVLogger):
    """`keras.callbacks.CSVLogger` without the empty `val_` columns that it adds where nothing is validated.

    Args:
        filename: path of the CSV file.
        append: bool, add rows to an existing file. Defaults to `False`.
        **kwargs: of `keras.callbacks.CSVLogger`.

    Example:

    ```python
    model.fit(batches, epochs=20, callbacks=[EpochLog("log.csv")])
    ```
    """

    def on_epoch_end(self, epoch, logs=None):
        if self.keys is None:
            self.keys = sorted(logs or {})
        super().on_epoch_end(epoch, logs)

    def __del__(self):
        # Keras closes the file when training ends, but not when it ends in an exception.
        if self.csv_file is not None:
            self.csv_file.close()

"""Loggers that write into the folder of the run: `log.csv`, and TensorBoard's events."""

from keras_moco import callbacks
from keras_moco.loggers.base import Logger


class LogFile(Logger):
    """`log.csv`: a row for each epoch."""

    @property
    def what(self):
        return f"{self.run.log_csv}"

    def callback(self, monitors, log, first_epoch):
        return callbacks.EpochLog(self.run.log_csv, log)


class TensorBoard(Logger):
    """The metrics of each epoch for TensorBoard; settings, views and points are written by `summaries`."""

    @property
    def what(self):
        return f"{self.run.tensorboard}"

    def callback(self, monitors, log, first_epoch):
        callbacks.drop_events(self.run.tensorboard, first_epoch)
        return callbacks.EventLog(self.run.events, {"chance_loss": self.plan.chance_loss}, monitors)

"""The settings of a run as TensorBoard gets them."""

import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from keras_moco.config import Config
from keras_moco.runs.plan import Plan
from keras_moco.summaries.hparams import write_settings


def plan(**settings):
    config = Config(dataset="folder:a|b*", workdir="runs/x", queue_size=512, batch_size=128, bn_splits=4, **settings)
    return Plan(config, train_examples=1437, channels=1, replicas=1)


def values(path):
    """Everything in a file of events by tag."""
    events = tf.compat.v1.train.summary_iterator(str(path))
    return {value.tag: value for event in events for value in event.summary.value}


def hyper_parameters(path):
    content = values(path)["_hparams_/session_start_info"].metadata.plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    return start.group_name, {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}


def test_the_text_is_every_setting_with_changed_ones_in_bold(tmp_path):
    found = values(write_settings(tmp_path, plan(temperature=0.2)))
    texts = {name: tf.make_ndarray(found[name].tensor).item().decode() for name in ("configuration", "plan")}
    header, _, *table = texts["configuration"].splitlines()
    assert header == "| setting | value | meaning |" and len(table) == len(vars(Config()))
    assert all(line.count("|") == 4 for line in (header, *table))
    for name, value in {"temperature": "**0.2**", "epochs": "200", "dataset": "**folder:a&#124;b&#42;**"}.items():
        assert sum(line.startswith(f"| {name} | {value} |") for line in table) == 1, name
    lines = texts["plan"].splitlines()
    assert "    method: moco" in lines and any("6.24 at chance level" in line for line in lines)


def test_hyperparameters_are_the_settings_that_decide_the_result(tmp_path):
    name, found = hyper_parameters(write_settings(tmp_path, plan(temperature=0.2, image_mean=(0.5,))))
    assert name == "runs/x"
    assert found["temperature"] == 0.2 and found["queue_size"] == 512
    assert found["schedule_per_step"] is False and found["method"] == "moco"
    assert found["image_mean"] == "0.5" and found["crop_min_area"] == ""
    assert (found["train_examples"], found["channels"]) == (1437, 1)
    assert not {"workdir", "data_dir", "log_steps", "keep_checkpoints"} & found.keys()

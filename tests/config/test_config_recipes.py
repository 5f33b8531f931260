"""`--recipe` is the flagfile of that name, wherever the command runs; every other flag counts more."""

import re
import shutil
from pathlib import Path

import pytest
from absl import flags

from keras_moco.commands import recipes as command
from keras_moco.commands.registry import COMMANDS
from keras_moco.config import Config, EvaluationConfig, recipes
from keras_moco.config.flagfiles import read_flagfile, with_flagfiles
from keras_moco.config.flags import define_flags, from_flags
from keras_moco.config.recipes import describe_recipe, recipe_names

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def parse(*arguments, kind=Config, **options):
    values = flags.FlagValues()
    define_flags(kind, values)
    assert values(with_flagfiles(["pretrain", *arguments], values, **{"recipes": True, **options})) == ["pretrain"]
    return from_flags(kind, values)


def test_recipe_is_its_flagfile():
    assert recipe_names() == sorted(path.stem for path in CONFIGS.glob("*.cfg"))
    for arguments in (["--recipe=quickstart"], ["-recipe", "quickstart"], ["--flagfile=configs/quickstart.cfg"]):
        assert parse(*arguments) == read_flagfile(CONFIGS / "quickstart.cfg")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe=quickstart", "--epochs=3", "--nosymmetric", "--queue_size", "256"],
        ["--epochs=3", "--queue_size", "256", "--recipe=quickstart"],
        ["--flagfile=mine.cfg", "--recipe", "quickstart"],
        ["--recipe=quickstart", "--flagfile=mine.cfg"],
        ["--flagfile=with_recipe.cfg"],
        ["--flagfile=with_recipe.cfg", "--recipe=quickstart"],
    ],
    ids=" ".join,
)
def test_every_other_flag_counts_more_wherever_the_recipe_stands(arguments):
    Path("mine.cfg").write_text("--epochs=3\n--queue_size=256\n")
    Path("with_recipe.cfg").write_text("--epochs=3\n--queue_size=256\n--recipe=quickstart\n")
    config = parse(*arguments)
    assert (config.epochs, config.queue_size) == (3, 256)
    assert (config.batch_size, config.backbone_width) == (128, 16)  # of the recipe


def test_recipe_for_any_images_needs_some():
    with pytest.raises(ValueError, match="`dataset` must be given with the recipe moco_v2, .* Received: none"):
        parse("--recipe=moco_v2")
    config = parse("--recipe=moco_v2", "--dataset=folder:photos")
    published = read_flagfile(CONFIGS / "imagenet_v2.cfg")
    same = "backbone head image_size augment key_momentum temperature batch_size epochs base_learning_rate weight_decay"
    for name in [*same.split(), "schedule"]:
        assert getattr(config, name) == getattr(published, name), name
    # What follows from the images is not given.
    assert (config.queue_size, config.channels, config.train_examples) == (None, None, None)


def test_unknown_and_second_recipes_are_refused():
    with pytest.raises(ValueError, match="must be one of cifar10, .* Received: moco_v3. Did you mean moco_v2"):
        parse("--recipe=moco_v3")
    with pytest.raises(ValueError, match="`recipe` must be a single one. Received: moco_v1 and moco_v2"):
        parse("--recipe=moco_v1", "--recipe=moco_v2")
    with pytest.raises(ValueError, match="Received: none. "):
        parse("--recipe")
    with pytest.raises(flags.UnrecognizedFlagError):
        parse("--recipe=moco_v1", kind=EvaluationConfig, recipes=False)


def test_a_file_of_the_user_counts_more_than_a_recipe_of_that_name():
    Path("configs").mkdir()
    Path("configs/imagenet.cfg").write_text("--epochs=7\n")
    assert parse("--flagfile=configs/imagenet.cfg").epochs == 7
    assert parse("--recipe=imagenet_v2").train_examples == 1281167  # which includes the recipe, not that file
    with pytest.raises(ValueError, match="Received: configs/mine.cfg, No such file"):
        parse("--flagfile=configs/mine.cfg")


def test_recipes_are_in_the_package_or_beside_it(monkeypatch, tmp_path):
    """The wheel has them in the folder `recipes`, which a checkout does not have."""
    assert recipes.recipe_folder() == CONFIGS
    shutil.copytree(CONFIGS, tmp_path / "keras_moco" / "recipes")
    monkeypatch.setattr(recipes, "_PACKAGE", tmp_path / "keras_moco")
    assert recipes.recipe_folder() == tmp_path / "keras_moco" / "recipes"
    assert parse("--recipe=imagenet_v2_800ep").epochs == 800


def test_every_recipe_says_what_it_needs_and_has_reached():
    for name in recipe_names():
        recipe = describe_recipe(name)
        assert re.fullmatch(r"[A-Z].*[a-z)]?\.", recipe.what) and recipe.needs.endswith("."), name
        assert re.match(r"(not )?measured\b", recipe.reached) and recipe.reached.endswith("."), name
        assert "#" not in recipe.needs + recipe.reached
    reached = describe_recipe("fashion_mnist").reached
    assert "84.48 %" in reached and reached.endswith("82.48 % and 88.54 %.")  # three lines of the file


def test_recipes_are_listed_and_printed(capsys):
    assert COMMANDS["recipes"].main([]) == 0
    text = capsys.readouterr().out
    names = re.findall(r"^\w+$", text, re.M)
    assert sorted(names) == recipe_names() and names[:3] == ["moco_v1", "moco_v2", "quickstart"]
    assert text.count("\n  needs    ") == text.count("\n  reached  ") == len(names)
    assert max(map(len, text.splitlines())) <= command.WIDTH + 10
    assert COMMANDS["recipes"].main(["moco_v2"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "moco_v2.cfg").read_text()
    assert COMMANDS["recipes"].main(["moco_v3"]) == 2
    assert "Received: moco_v3. Did you mean moco_v2? " in capsys.readouterr().err

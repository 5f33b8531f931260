"""The arguments of the commands that argparse reads, and the mistakes in them that can be seen without TensorFlow."""

from keras_moco.checks.ranges import check_number
from keras_moco.command_line.arguments import Parser, check_out
from keras_moco.config import Config
from keras_moco.config.settings import choices_of
from keras_moco.errors import UserError, did_you_mean
from keras_moco.storage.paths import user_path

_FIELDS = Config.__dataclass_fields__
_SOURCE = _FIELDS["dataset"].metadata["help"].partition(": ")[2].rstrip(".")


def check_parser():
    parser = Parser(
        prog="keras-moco check",
        description="Looks at all images before training: a report, settings that fit, and a picture.",
    )
    parser.add_argument("source", help=f"one of {_SOURCE}")
    parser.add_argument("--split", default="train", help="split of the source (default train)")
    parser.add_argument("--data_dir", help="folder of TensorFlow Datasets' data sets")
    parser.add_argument("--out", help="a PNG file to write: values, sizes, aspect ratios, classes (default: none)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--sample", type=int, default=10_000, help="images to decode at most (default 10000)")
    parser.add_argument("--channels", type=int, help="as in pretrain (default: those of the first image)")
    parser.add_argument("--value_range", default=Config.value_range, help="as in pretrain (default auto)")
    parser.add_argument("--background", type=int, default=Config.background, help="as in pretrain (default 255)")
    return parser


def settings_of_images(args):
    """The settings among the arguments of `check` that say how images are read: a dict."""
    return {name: getattr(args, name) for name in ("data_dir", "channels", "value_range", "background")}


def check_check(args):
    if args.out is not None:
        check_out(user_path(args.out), args.overwrite)
    check_number("sample", args.sample, "at least 1", "Correct --sample.", whole=True)
    Config(**settings_of_images(args))  # checks their ranges


def preview_parser():
    parser = Parser(
        prog="keras-moco preview",
        description="Writes a grid of images, each followed by random views of it, as a PNG file.",
    )
    parser.add_argument("--source", required=True, help=f"one of {_SOURCE}")
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(choices_of(_FIELDS['augment']))}")
    parser.add_argument("--out", required=True, help="the PNG file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--images", type=int, default=6, help="number of images, one per row (default 6)")
    parser.add_argument("--views", type=int, default=7, help="number of views of each image (default 7)")
    parser.add_argument("--image_size", type=int, default=224, help="side of the square views in pixels (default 224)")
    parser.add_argument(
        "--crop_min_area", type=float, help="smallest crop as a fraction of the image's area (default: the recipe's)"
    )
    parser.add_argument("--exact", action="store_true", help="apply the operations one by one instead of fused")
    parser.add_argument("--seed", type=int, default=0, help="random seed of images and views (default 0)")
    parser.add_argument(
        "--bands",
        type=_numbers,
        help="bands to show, counted from 1: three as red, green and blue, such as 4,3,2, or one as gray (default: the "
        "first three, or the first of fewer)",
    )
    parser.add_argument("--channels", type=int, help="channels of the images (default: those of the first file)")
    parser.add_argument(
        "--value_range",
        default="auto",
        help="values of the files that become 0..255: auto, full, window, LOW,HIGH or percentile:P,Q (default auto)",
    )
    parser.add_argument("--background", type=int, default=255, help="gray level under transparent images (default 255)")
    parser.add_argument("--split", default="train", help="split of the source (default train)")
    parser.add_argument("--data_dir", help="folder of TensorFlow Datasets' data sets")
    parser.add_argument(
        "--tfrecord_image_feature",
        default="image/encoded",
        help="feature of TFRecords with the encoded image (default image/encoded)",
    )
    return parser


def _numbers(text):
    return tuple(int(number) for number in text.split(","))


def check_preview(args):
    check_out(user_path(args.out), args.overwrite)
    check_grid(args.images, args.views, args.seed)
    _check("image_size", args.image_size, "at least 1", args.image_size >= 1)
    area = args.crop_min_area
    _check("crop_min_area", area, "in (0, 1]", area is None or 0 < area <= 1)
    known = choices_of(_FIELDS["augment"])
    _check("recipe", args.recipe, f"one of {', '.join(known)}", args.recipe in known, did_you_mean(args.recipe, known))


def check_grid(images, views, seed):
    """Refuses numbers of which there is no grid of views."""
    _check("images", images, "at least 1", images >= 1)
    _check("views", views, "at least 1", views >= 1)
    _check("seed", seed, "at least 0 and below 2**63", 0 <= seed < 2**63)


def _check(name, value, words, holds, suggestion=""):
    if not holds:
        raise UserError(f"`{name}` must be {words}. Received: {name}={value}. {suggestion}Correct --{name}.")


def import_idx_parser():
    parser = Parser(
        prog="keras-moco import-idx",
        description="Converts IDX files, the format of MNIST, to a TensorFlow Datasets data set: tfds:NAME.",
    )
    parser.add_argument("source_dir", metavar="SRC", help="folder of the train- and t10k- IDX files, gzipped or not")
    parser.add_argument("--name", required=True, help="name of the new data set, e.g. fashion_mnist")
    parser.add_argument("--data_dir", required=True, help="folder of TensorFlow Datasets' data sets")
    parser.add_argument(
        "--class_names",
        type=lambda text: [part.strip() for part in text.split(",")],
        help="comma-separated, in label order (known for mnist, kmnist and fashion_mnist)",
    )
    return parser


def convert_parser():
    parser = Parser(
        prog="keras-moco convert",
        description="Converts weights between PyTorch (MoCo's authors, torchvision), Detectron2 and this package. "
        "Nothing in a file is run.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name, help, **places):
        made = commands.add_parser(name, help=help, description=help)
        for place, text in places.items():
            made.add_argument(place, metavar=place.upper(), help=text)
        return made

    source = "checkpoint: .pth, .pth.tar or .safetensors"
    command("show", "Describes a checkpoint.", file=source)
    made = command(
        "backbone",
        "Writes the backbone of a checkpoint as SavedModel and .keras file, for use without this package.",
        file=source + ", of MoCo or of a torchvision ResNet",
        folder="folder to write saved_model and backbone.keras to",
    )
    made.add_argument("--preset", help="preset that the file must fit, such as moco_v2_resnet50_imagenet")
    made.add_argument(
        "--stem",
        choices=choices_of(_FIELDS["stem"]),
        help="first layers; the file does not distinguish half and cifar",
    )
    _partial(made)
    _overwrite(made)
    made = command(
        "run",
        "Makes a run out of a checkpoint of MoCo, for evaluate to evaluate and pretrain to resume.",
        file=source,
    )
    made.add_argument("--flagfile", required=True, help="configuration of the run, such as configs/imagenet_v2.cfg")
    made.add_argument("--workdir", required=True, help="folder of the run, new or empty")
    _data_dir(made)
    _partial(made)
    for name, text, ending in (
        ("to_pytorch", "Writes a run as a checkpoint of the official MoCo.", ".pth or .safetensors"),
        ("to_detectron2", "Writes the backbone of a run for Detectron2.", ".pkl"),
    ):
        made = command(name, text, workdir="folder of a run of pretrain", file=f"file to write, {ending}")
        _data_dir(made)
        _overwrite(made)
    return parser


def _data_dir(parser):
    parser.add_argument("--data_dir", help="folder of the tfds data sets; needed unless the flagfile gives their size")


def _partial(parser):
    parser.add_argument("--allow_partial", action="store_true", help="list what does not fit, and convert the rest")


def _overwrite(parser):
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def recipes_parser():
    parser = Parser(
        prog="keras-moco recipes",
        description="Lists the recipes of `keras-moco pretrain --recipe=NAME`: what each is, needs and has reached.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the settings of this recipe instead")
    return parser


def completion_parser():
    parser = Parser(
        prog="keras-moco completion",
        description="Prints a script that lets the Tab key complete commands, flags, their values, recipes and files.",
        epilog="In ~/.bashrc: source <(keras-moco completion bash). In ~/.zshrc: source <(keras-moco completion zsh).",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that reads the script")
    parser.add_argument("line", nargs="?", help="what the script asks: the line before the cursor")
    parser.add_argument("breaks", nargs="?", default="", help="characters at which bash divides words")
    return parser

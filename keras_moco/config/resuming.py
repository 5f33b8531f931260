"""Settings of a run, which is started more than once: what is written down, and what may differ when it resumes."""

import dataclasses

from keras_moco.config.settings import Settings, to_text
from keras_moco.errors import UserError


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """Base of `Config`."""

    has_recipes = True

    def __post_init__(self):
        super().__post_init__()
        allowed = self.allow_config_change  # type: ignore[attr-defined]  # a field of `Config`
        fixed = [name for name in allowed if name not in self.changeable()]
        if fixed:
            raise UserError(
                f"`allow_config_change` must name settings that can change: {', '.join(self.changeable())}. "
                f"Received: {', '.join(fixed)}. Begin a new run with them in another --workdir, if need be from these "
                "weights (--init_from)."
            )

    @classmethod
    def changeable(cls) -> list[str]:
        """Names of the settings that `allow_config_change` may name: a list."""
        return [field.name for field in dataclasses.fields(cls) if field.metadata["changeable"]]

    def differences(self, other: "RunSettings") -> dict[str, str]:
        """The settings that affect the result and differ from earlier ones: a dict of names to `"theirs -> ours"`.

        What is not given and follows from the data differs from nothing, as long as `Plan` has not settled it.
        """

        def is_open(field):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            # Flagfiles of versions without a setting do not have what `Plan` found out.
            missing = theirs == field.default and field.metadata["auto_up_to"] is None
            word = field.metadata["measured_if"]
            measured = word is not None and isinstance(ours, str) and ours.startswith(word)
            return measured or field.metadata["follows_data"] and (ours == field.default or missing)

        fixed = [field for field in dataclasses.fields(self) if not field.metadata["resumable"]]
        names = [field.name for field in fixed if not is_open(field)]
        pairs = ((name, getattr(other, name), getattr(self, name)) for name in names)
        return {name: f"{theirs} -> {ours}" for name, theirs, ours in pairs if theirs != ours}

    def to_flagfile(self) -> str:
        """The whole configuration as an absl flagfile, one line per field."""
        names = [field.name for field in dataclasses.fields(self) if field.metadata["in_flagfile"]]
        texts = ((name, to_text(getattr(self, name))) for name in names)
        return "".join(f"--{name}={text}\n" for name, text in texts if text is not None)

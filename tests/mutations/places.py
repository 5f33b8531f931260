"""Where the package is broken, how, and which test files should notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One place of the package, and what a careless change would make of it.

    Attributes:
        file: str, path from the root of the checkout.
        old: str, which the file holds once.
        new: str, in its place.
        what: str, what this breaks, in a few words.
        tests: list of str, test files.
    """

    file: str
    old: str
    new: str
    what: str
    tests: list

    def applied_to(self, source):
        if source.count(self.old) != 1:
            raise ValueError(
                f"A mutation must find its text in {self.file} once. Received: {source.count(self.old)} times "
                f"{self.old!r}. Write it anew for the code as it is."
            )
        return source.replace(self.old, self.new)


MUTATIONS = []

"""`text_file`: one line for each round with training in a file of the run's folder."""


class TextFile:
    """Follows a run in a text file.

    Args:
        track: The section `track`.
        name: Name shown for the run.
        say: Prints one line to the user.
        verbose: Whether to say more.
        file: Name of the file.
    """

    def __init__(self, track, *, name, say, verbose, file: str = "rounds.txt"):
        self.file = file
        self.path = None

    def start(self, run_folder, config, resume_id=None):
        """Remember where the run's folder is."""
        self.path = run_folder.path / self.file

    def log_round(self, row, extras=None):
        """Write the round's number and training loss, if anybody trained in it."""
        loss = row.get("train_loss")
        if loss is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{row['round']} {loss:.3f}\n")

    def save_adapters(self, path):
        """Adapters stay where they are."""

    def finish(self, summary=None, *, failed=False):
        """Nothing is left open."""

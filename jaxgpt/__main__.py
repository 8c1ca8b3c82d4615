"""The command line: python -m jaxgpt generate --model DIR --prompt TEXT"""

import sys
from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Generate:
    """Write what follows a prompt, piece by piece."""

    model: str
    """Run directory."""
    prompt: str = ""
    """What to go on from (empty: the beginning of a text)."""
    max_new_tokens: int = 200
    """Most tokens to write."""
    temperature: float = 0.8
    """0 takes the likeliest token each time; 1 draws from the model's own distribution."""
    top_k: int | None = None
    """Draw from this many likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probability reaches this."""
    min_p: float | None = None
    """Draw from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: make tokens that are there already less likely."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings."""
    seed: int = 0
    """Of the draws."""

    def run(self) -> None:
        import jaxgpt
        from jaxgpt.sampling import Sampler

        # Refuses its numbers, before a model is read.
        Sampler(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        options = {name: value for name, value in vars(self).items() if name not in ("model", "prompt", "stop")}
        pieces = jaxgpt.stream(jaxgpt.load(self.model), self.prompt, stop=list(self.stop) or None, **options)
        print(self.prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()


def main() -> None:
    command = tyro.extras.subcommand_cli_from_dict(
        {"generate": Generate}, prog="python -m jaxgpt", use_underscores=True
    )
    try:
        command.run()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

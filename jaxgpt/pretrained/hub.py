"""From a name to a folder: a path that is there, or a repository of the Hugging Face hub."""

import re
from pathlib import Path

from jaxgpt.checks import require

FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.spm"]  # data alone: no code, no pickles
_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder itself, or the hub's repository of that name ("openai-community/gpt2"), downloaded or from its cache.

    revision: a branch, tag or commit of the repository. Without a network (or with HF_HUB_OFFLINE set) what the cache
    has is taken. Needs the `hub` extra for a repository.
    Raises FileNotFoundError where there is neither.
    """
    folder = Path(name)
    if folder.exists():
        require(folder.is_dir(), "model", str(name), "a folder or a repository of the hub")
        require(revision is None, "revision", revision, f"None, as {name} is a folder")
        return folder
    if isinstance(name, Path) or not _REPO.fullmatch(name):
        raise FileNotFoundError(f"model: found no folder {name}, expected one, or a repository of the hub")
    try:
        from huggingface_hub import snapshot_download  # an extra
    except ImportError as error:
        expected = "a folder; to download a repository of the hub: pip install 'jaxgpt[hub]'"
        raise FileNotFoundError(f"model: found no folder {name}, expected {expected}") from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except Exception as error:  # of many kinds: no such repository, no network, no permission
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"model: found neither a folder nor a hub repository {name} ({reason})") from error

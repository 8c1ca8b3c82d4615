"""What a folder says of a model's use: generation_config.json, class names, how sentences become vectors."""

import json
import warnings
from pathlib import Path
from typing import Any

from jaxgpt.checks import require
from jaxgpt.model import GenerationDefaults, Settings
from jaxgpt.tokenizers.base import read_object, write_whole

GENERATION_FILE = "generation_config.json"
MODULES_FILE = "modules.json"
SENTENCE_FILE = "sentence_bert_config.json"
_POOLING = "1_Pooling"
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
_MODULE = "sentence_transformers.models."

# Of transformers' names, ours; and those that change the text and that nothing here does, with the values that don't.
_SAME = ("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_RENAMED = {"num_beams": "beam", "decoder_start_token_id": "start_token", "length_penalty": "length_penalty"}
_NOT_DONE = {
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1.0,),
    "diversity_penalty": (0.0,), "num_beam_groups": (1,), "typical_p": (1.0,), "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,), "min_length": (0,), "min_new_tokens": (0,), "forced_bos_token_id": (),
    "sequence_bias": (), "begin_suppress_tokens": ([],), "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,), "watermarking_config": (), "prompt_lookup_num_tokens": (),
}  # fmt: skip


def read_settings(folder: Path, config: dict[str, Any], family: str) -> Settings:
    """What the files of a folder say, beside its config.json, which holds the class names.

    Warns of what asks for another text and that nothing here does. Raises ValueError for a pooling that there is not.
    """
    prefixes = tuple(
        (task, values["prefix"])
        for task, values in (config.get("task_specific_params") or {}).items()
        if isinstance(values, dict) and isinstance(values.get("prefix"), str)
    )
    return Settings(
        family=family,
        generation=generation_defaults(folder, config),
        labels=class_names(config),
        prefixes=prefixes,
        **_sentences(folder),
    )


def class_names(config: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes that a config.json has."""
    names = config.get("id2label") or {}
    return tuple(names[key] for key in sorted(names, key=int))


def generation_defaults(folder: Path, config: dict[str, Any]) -> GenerationDefaults:
    """How text is made, as generation_config.json says, else config.json. Warns as `read_settings`."""
    # Before there was a file of its own, config.json said how text is made.
    own = read_object(folder / GENERATION_FILE)
    file, found = (folder / GENERATION_FILE, own) if own else (folder / "config.json", config)
    ignored = [f"{name}={found[name]!r}" for name, idle in _NOT_DONE.items() if found.get(name) not in (None, *idle)]
    bad_words = found.get("bad_words_ids") or []
    ignored += [f"bad_words_ids={ids!r}" for ids in bad_words if len(ids) > 1]
    if ignored:
        warnings.warn(f"{file}: nothing here does {', '.join(ignored)}: text will differ", stacklevel=2)
    values = {name: found[name] for name in _SAME if found.get(name) is not None}
    values |= {ours: found[theirs] for theirs, ours in _RENAMED.items() if found.get(theirs) is not None}
    if "start_token" not in values and config.get("decoder_start_token_id") is not None:
        values["start_token"] = config["decoder_start_token_id"]
    ends = found.get("eos_token_id", config.get("eos_token_id"))
    values["end_tokens"] = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    banned = [ids[0] for ids in bad_words if len(ids) == 1]
    values["banned_tokens"] = tuple(sorted({*banned, *(found.get("suppress_tokens") or [])}))
    values["early_stopping"] = found.get("early_stopping") or False
    if not own:
        values.pop("max_length", None)  # 20 in every old file: nobody's wish
    try:
        return GenerationDefaults(**values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _sentences(folder: Path) -> dict[str, Any]:
    """The pooling of a sentence-transformers folder; nothing of any other."""
    file = folder / MODULES_FILE
    if not file.is_file():
        return {}
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        paths = [module["path"] for module in modules]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: found bad JSON ({error}), expected a list of modules") from error
    known = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    require(kinds in known, f"{file}: modules", kinds, "Transformer and Pooling, and perhaps Normalize")
    inside = all(isinstance(path, str) and (folder / path).resolve().is_relative_to(folder.resolve()) for path in paths)
    require(inside, f"{file}: path", paths, "folders within this one")
    pooling = folder / paths[1] / "config.json"
    modes = sorted(name for name, on in read_object(pooling).items() if name.startswith("pooling_mode") and on is True)
    require(len(modes) == 1 and modes[0] in _MODES, f"{pooling}: pooling", modes, f"one of {', '.join(_MODES)}")
    longest = read_object(folder / SENTENCE_FILE).get("max_seq_length")
    return {"pooling": _MODES[modes[0]], "normalize": kinds[-1] == "Normalize", "max_tokens": longest}


def write_settings(settings: Settings, folder: Path, width: int, is_encoder: bool) -> None:
    """The files that `read_settings` reads. width: of a vector. An encoder generates nothing."""
    if not is_encoder:
        write_whole(folder / GENERATION_FILE, json.dumps(_to_json(settings.generation), indent=2))
    if settings.pooling is None:
        return
    kinds = ["Transformer", "Pooling", *(["Normalize"] if settings.normalize else [])]
    paths = ["", _POOLING, "2_Normalize"]
    modules = [{"idx": i, "name": str(i), "path": paths[i], "type": f"{_MODULE}{kind}"} for i, kind in enumerate(kinds)]
    modes = {name: mode == settings.pooling for name, mode in _MODES.items()}
    write_whole(folder / _POOLING / "config.json", json.dumps({"word_embedding_dimension": width} | modes, indent=2))
    longest = {} if settings.max_tokens is None else {"max_seq_length": settings.max_tokens}
    write_whole(folder / SENTENCE_FILE, json.dumps(longest | {"do_lower_case": False}, indent=2))
    write_whole(folder / MODULES_FILE, json.dumps(modules, indent=2))


def token_fields(generation: GenerationDefaults) -> dict[str, Any]:
    """The ids that config.json repeats."""
    ends = list(generation.end_tokens)
    return {
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        **({} if generation.start_token is None else {"decoder_start_token_id": generation.start_token}),
    }


def _to_json(generation: GenerationDefaults) -> dict[str, Any]:
    values = {name: getattr(generation, name) for name in _SAME}
    values |= {theirs: getattr(generation, ours) for theirs, ours in _RENAMED.items()}
    default = GenerationDefaults()
    kept = {name: x for name, x in values.items() if x is not None and x != getattr(default, _RENAMED.get(name, name))}
    if generation.early_stopping:
        kept["early_stopping"] = generation.early_stopping
    if generation.banned_tokens:
        kept["bad_words_ids"] = [[token] for token in generation.banned_tokens]
    return kept | token_fields(generation)

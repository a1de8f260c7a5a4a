"""Diffusers folders, as strangers make them: what they hold, read without running what they bring.

    folder = Folder(path)                    # FolderError: no folder of a pipeline that is known here
    folder.check()                           # FolderError: a part is incomplete, or asks for what is not here
    pipeline = folder.load(torch.float16)

Not ``from_pretrained``: that takes classes from where a folder says, fills what is missing with initial values, and
knows one variant of the weights for all parts. Here every part is looked at by itself: the first of its sets of files
(`weight_files`) in which every tensor is there, with its shape, and none besides.
"""
from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..untrusted import JsonError, parse_object, shown
from ..weights import files
from ..weights.files import Tensors
from ..weights.noise import Noise, NoiseError
from . import assemble, videocrafter

MODELSCOPE, ANIMATEDIFF = "TextToVideoSDPipeline", "AnimateDiffPipeline"
STABLE_DIFFUSION = "StableDiffusionPipeline"
OF_MODELSCOPES_KIND = (
    MODELSCOPE, "TextToVideoPipeline", "VideoCrafterPipeline", "TextToVideoVideoCrafterPipeline")
"""Pipelines that hold the parts of a text-to-video model by itself: diffusers' own, ours, and those of VideoCrafter2's
conversions. Which model it is, the UNet's weights tell."""

SCHEDULER, TOKENIZER = "scheduler", "tokenizer"
UNETS = {
    STABLE_DIFFUSION: ("UNet2DConditionModel",),
    ANIMATEDIFF: ("UNet2DConditionModel", "UNetMotionModel"),
    MODELSCOPE: ("UNet3DConditionModel", "VideoCrafterUNet", "UNet3DVideoCrafterConditionModel"),
}
PARTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "vae": (("diffusers", "AutoencoderKL"),),
    "text_encoder": (("transformers", "CLIPTextModel"),),
    "tokenizer": (("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")),
    "motion_adapter": (("diffusers", "MotionAdapter"),),
    # not loaded:
    "safety_checker": (("stable_diffusion", "StableDiffusionSafetyChecker"),
                       ("diffusers", "StableDiffusionSafetyChecker")),
    "feature_extractor": (("transformers", "CLIPImageProcessor"), ("transformers", "CLIPFeatureExtractor"),
                          ("transformers", "CLIPImageProcessorPil"), ("transformers", "CLIPImageProcessorFast")),
    "image_encoder": (("transformers", "CLIPVisionModelWithProjection"),),
}
"""(library, class) that a part may have, besides the UNet and the scheduler, which is any of diffusers'. Whatever else
a folder names would be code from somewhere: it is refused, not imported."""

NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

STEMS = {"text_encoder": ("model", "pytorch_model")}
VARIANTS = ("", "fp32", "fp16", "bf16")
"""Weights of a part in this order, then any other, and "non_ema" last; .safetensors before .bin."""

VOCABULARY_BYTES = 1 << 24
"""CLIP's tokenizer.json has 3.6 million bytes."""

MOST_ENTRIES = 10_000


class FolderError(ValueError):
    """A folder cannot be used. The message is one line that goes on after the folder's name."""


def read_object(path: Path, most: int = 1 << 20) -> dict[str, Any]:
    """The object in a JSON file of a folder. Raises FolderError."""
    name = f"{path.parent.name}/{path.name}"
    try:
        if not path.is_file():
            raise FolderError(f"has no {name}")
        if path.stat().st_size > most:
            raise FolderError(f"has a {name} that is too long ({path.stat().st_size} bytes)")
        return parse_object(path.read_bytes(), most=most)
    except JsonError as error:
        raise FolderError(f"has a {name} that {error}") from error
    except OSError as error:
        raise FolderError(f"has a {name} that cannot be read ({error.strerror})") from error


class Folder:
    """The folder of a pipeline. Raises FolderError where it is none, or names classes that are not known here."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            index = read_object(self.path / "model_index.json")
        except FolderError as error:
            raise FolderError("is a folder without a readable model_index.json"
                              + ("" if "has no" in str(error) else f": it {error}")) from error
        pipeline = index.get("_class_name")
        if not isinstance(pipeline, str):
            raise FolderError(f"names a pipeline of its own, whose code is never run: _class_name = "
                              f"{shown(pipeline, 60)}")
        self.pipeline, self._index = MODELSCOPE if pipeline in OF_MODELSCOPES_KIND else pipeline, index

    def classes(self) -> dict[str, str]:
        """The class of each part. Raises FolderError for one that is not on the lists above."""
        found = {}
        for part, value in self._index.items():
            if part.startswith("_") or not isinstance(value, (list, dict)) or value == [None, None]:
                continue
            allowed = tuple(("diffusers", name) for name in UNETS[self.pipeline]) if part == "unet" else PARTS.get(part)
            pair = tuple(value) if len(value) == 2 and all(isinstance(word, str) for word in value) else ()
            if part == "unet" and self.pipeline == MODELSCOPE and pair:  # its file of code may be any: it is not read
                pair = ("diffusers", pair[1])
            scheduler = part == SCHEDULER and pair and pair[0] == "diffusers" and pair[1].endswith("Scheduler")
            if not scheduler and pair not in (allowed or ()):
                raise FolderError(f"names {shown(part, 60)} = {shown(value, 100)} in its model_index.json, which is "
                                  "not a class known here; code of a folder's own is never run")
            found[part] = pair[1]
        for part in NEEDED:
            if part not in found:
                raise FolderError(f"names no {part} in its model_index.json" if (self.path / part).is_dir() else
                                  f"has no weights and config.json in its folder {part}")
        if self.pipeline == MODELSCOPE:
            found["unet"] = "VideoCrafterUNet" if self.is_videocrafter else "UNet3DConditionModel"
        return found

    @property
    def is_videocrafter(self) -> bool:
        """Whether it is a conversion of VideoCrafter2: its UNet has an embedding of the frames a second."""
        return self.pipeline == MODELSCOPE and _kin(self.path / "unet") == videocrafter.NAME

    @property
    def has_motion(self) -> bool:
        """Whether an AnimateDiffPipeline brings motion modules."""
        classes = self.classes()
        return classes["unet"] == "UNetMotionModel" or "motion_adapter" in classes

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part. Raises FolderError."""
        return read_object(self.path / part / "config.json")

    def noise(self) -> Noise:
        """What the model predicts, and its noise table. Raises FolderError."""
        try:
            own = Noise.of_scheduler(read_object(self.path / SCHEDULER / "scheduler_config.json"))
            own = replace(own, scaled=self.is_videocrafter)
            own.table()
            return own
        except NoiseError as error:
            raise FolderError(f"has a scheduler that {error}") from error

    def check(self, but: Sequence[str] = ()) -> None:
        """Raises FolderError unless all parts are whole, by their names and shapes, and fit together.

        ``but``: parts that something else takes the place of. Reads no weights of .safetensors files.
        """
        for part, name in self._networks(but).items():
            load_part(self.path / part, part, name, None)
        self._fitting(but)
        self.words()
        self.noise()

    def load(self, dtype: torch.dtype, but: Sequence[str] = ()) -> dict[str, Any]:
        """The parts by name, on the CPU in ``dtype``: networks, tokenizer and a DDIM scheduler. Raises FolderError."""
        parts = {part: load_part(self.path / part, part, name, dtype) for part, name in self._networks(but).items()}
        return {**parts, "tokenizer": self.tokenizer(), "scheduler": self.noise().scheduler()}

    def _networks(self, but: Sequence[str]) -> dict[str, str]:
        classes = self.classes()
        wanted = ["unet", "vae", "text_encoder"]
        if classes["unet"] == "UNet2DConditionModel" and "motion_adapter" in classes:
            wanted.append("motion_adapter")
        return {part: classes[part] for part in wanted if part not in but}

    def _fitting(self, but: Sequence[str]) -> None:
        """That the parts are of one model: text as wide as the UNet reads, latents of as many channels."""
        unet, text = self.config("unet"), self.config("text_encoder")
        try:
            width, own = assemble.whole(unet, "cross_attention_dim"), assemble.whole(text, "hidden_size")
            if width != own:
                raise FolderError(f"has a UNet for text of width {width}, and a text encoder of width {own}")
            channels = assemble.whole(unet, "in_channels", 4)
            if "vae" not in but and channels != assemble.whole(self.config("vae"), "latent_channels", 4):
                raise FolderError(f"is a model for inpainting or editing ({channels} input channels)")
        except FolderError:
            raise
        except ValueError as error:
            raise FolderError(f"has a config.json that {error}") from error

    def words(self) -> Words:
        """Its tokenizer's files, whole. Raises FolderError."""
        return read_words(self.path / TOKENIZER, assemble.whole(self.config("text_encoder"), "vocab_size", 49408))

    def tokenizer(self) -> Any:
        """Its tokenizer. Raises FolderError."""
        words = self.words()
        longest = assemble.whole(self.config("text_encoder"), "max_position_embeddings", 77)
        tokenizer = make_tokenizer(words.vocabulary, words.merges, {**words.special, "model_max_length": longest})
        tokenizer.add_tokens(sorted(words.extra, key=lambda token: words.extra[token]))
        if len(tokenizer) != len(words.vocabulary) + len(words.extra):
            raise FolderError(f"has a tokenizer that transformers reads as one of {len(tokenizer)} words")
        return tokenizer


# Weights


def _kin(folder: Path) -> str | None:
    """`videocrafter.NAME` where the UNet in ``folder`` is one of that kind; None where it is not, or cannot be read."""
    try:
        chosen = weight_files(folder, ("diffusion_pytorch_model",))
        return videocrafter.NAME if chosen and any(
            name.startswith("fps_embedding.") for name in _read(chosen[0], "meta")) else None
    except ValueError:
        return None


def load_part(folder: Path, part: str, name: str, dtype: torch.dtype | None) -> Any:
    """The network of class ``name`` in ``folder``; with ``dtype`` None it is checked alone, and nothing returned.

    Raises FolderError, in whose message the part is ``part``.
    """
    config = read_object(folder / "config.json")
    if name == "VideoCrafterUNet":
        config = videocrafter.of_conversion(config)
    try:
        wanted = assemble.shapes(name, config)
    except ValueError as error:
        raise FolderError(f"has a part that cannot be used: its {part} {error}") from error
    problems = []
    for chosen in weight_files(folder, STEMS.get(part, ("diffusion_pytorch_model",))):
        try:
            state = _renamed(name, _read(chosen, "meta"), config)
            assemble.compare(state, wanted)
            if dtype is None:
                return None
            return assemble.build(name, config, _renamed(name, _read(chosen, "cpu"), config), dtype)
        except ValueError as error:
            others = f" with its {len(chosen) - 1} others" if len(chosen) > 1 else ""
            problems.append(f"{chosen[0].name}{others} {error}")
    if not problems:
        raise FolderError(f"has no weights and config.json in its folder {folder.name}")
    raise FolderError(f"has an incomplete or foreign {part}: {problems[0]}")


def weight_files(folder: Path, stems: Sequence[str]) -> list[list[Path]]:
    """The sets of files in ``folder`` that may hold a part's weights, each whole by its names, the best first.

    A set is one file, or the shards of one, of a variant: ``stem.safetensors``, ``stem.fp16.safetensors``,
    ``stem.fp16-00001-of-00002.safetensors``, the like with the variant behind the number, and .bin. An index beside
    them names the shards. Raises FolderError: shards are missing, or an index names files elsewhere.
    """
    try:
        names = sorted(entry.name for _, entry in zip(range(MOST_ENTRIES), os.scandir(folder)))
    except OSError:
        return []
    stem = "|".join(map(re.escape, stems))
    variant = r"(?:\.([A-Za-z]\w*))?"
    file = re.compile(rf"(?:{stem}){variant}(?:-(\d{{5}})-of-(\d{{5}}))?{variant}\.(safetensors|bin)")
    index = re.compile(rf"(?:{stem}){variant}\.(safetensors|bin)\.index{variant}\.json")
    sets: dict[tuple[str, str], dict[int, list[str]]] = {}
    for name in names:
        if match := file.fullmatch(name):
            before, _, count, behind, ending = match.groups()
            sets.setdefault((ending, before or behind or ""), {}).setdefault(int(count or 0), []).append(name)
    for name in names:
        if match := index.fullmatch(name):
            before, ending, behind = match.groups()
            named = _shards(folder / name)
            shards = sets.setdefault((ending, before or behind or ""), {})
            for count in [count for count in shards if count]:
                del shards[count]
            shards[len(named)] = named
    found: list[tuple[tuple[Any, ...], list[Path]]] = []
    lost = []
    for (ending, kind), shards in sets.items():
        for count, members in shards.items():
            there = [folder / name for name in members if (folder / name).is_file()]
            if count and len(there) != count:
                lost.append(f"has {len(there)} of the {count} files of its {folder.name}, as {members[0]}")
            elif there:
                rank = len(VARIANTS) + (kind == "non_ema")
                order = VARIANTS.index(kind) if kind in VARIANTS else rank
                found.append(((ending == "bin", order, kind, count), there))
    if lost and not found:
        raise FolderError(lost[0])
    return [paths for _, paths in sorted(found)]


def _shards(index: Path) -> list[str]:
    """The files that an index names. Raises FolderError: one is not beside it."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FolderError(f"has a {index.parent.name}/{index.name} without a weight_map of names")
    named = sorted(set(weight_map.values()))
    for name in named:
        if not re.fullmatch(r"\w[\w.-]*\.(safetensors|bin)", name):
            raise FolderError(f"has a {index.parent.name}/{index.name} that names {shown(name, 80)}, no file beside it")
    return named


def _read(chosen: Sequence[Path], device: str) -> Tensors:
    state: Tensors = {}
    for path in chosen:
        tensors = files.read(path, device)
        twice = next((name for name in tensors if name in state), None)
        if twice is not None:
            raise ValueError(f"{shown(twice, 100)} is in two of the files")
        state.update(tensors)
    return state


def _renamed(name: str, tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    if name == "CLIPTextModel":
        return assemble.text_state(tensors, config)
    return assemble.vae_state(tensors, config) if name == "AutoencoderKL" else tensors


# Tokenizer


def make_tokenizer(vocabulary: Mapping[str, int], merges: Sequence[str], settings: Mapping[str, Any]) -> Any:
    """CLIP's tokenizer of a vocabulary and of merges ("a b"). ``settings``: its special tokens and longest text.

    What texts are filled up with is a word like others: OpenCLIP's is "!", which a prompt may end with.
    """
    from transformers import CLIPTokenizer

    padding = settings.get("pad_token")
    settings = {key: value for key, value in settings.items() if key != "pad_token"}
    with tempfile.TemporaryDirectory() as folder:  # files are what every release of transformers reads
        Path(folder, "vocab.json").write_text(json.dumps(dict(vocabulary)), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(dict(settings)), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if padding is not None:
        tokenizer.pad_token = padding
    return tokenizer


@dataclass(frozen=True)
class Words:
    """What makes a tokenizer: its vocabulary, its merges ("a b"), the tokens added to them, and its special ones."""

    vocabulary: Mapping[str, int]
    merges: Sequence[str]
    extra: Mapping[str, int]
    special: Mapping[str, str]


def read_words(folder: Path, known: int) -> Words:
    """The tokenizer in ``folder``, from vocab.json and merges.txt or from tokenizer.json.

    ``known``: as many words as the text encoder has. Raises FolderError: files are missing or cut, or of another text
    encoder.
    """
    try:
        stamp = tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(folder)))
    except OSError:
        stamp = ()
    return _read_words(folder, known, stamp)


@lru_cache(maxsize=4)
def _read_words(folder: Path, known: int, stamp: tuple[tuple[str, int], ...]) -> Words:
    """``stamp``: its files and when they were written, so that they are read anew after that."""
    vocabulary: Any
    merges: Any
    extra: Mapping[str, Any] = {}
    if (folder / "vocab.json").is_file() or not (folder / "tokenizer.json").is_file():
        vocabulary = read_object(folder / "vocab.json", VOCABULARY_BYTES)
        merges = _merges(folder / "merges.txt")
        if (folder / "added_tokens.json").is_file():
            extra = read_object(folder / "added_tokens.json")
    else:
        whole = read_object(folder / "tokenizer.json", VOCABULARY_BYTES)
        model = whole.get("model")
        model = model if isinstance(model, dict) else {}
        vocabulary, merges, added = model.get("vocab"), model.get("merges"), whole.get("added_tokens") or []
        if not isinstance(vocabulary, dict) or not isinstance(merges, list) or not isinstance(added, list):
            raise FolderError(f"has a {folder.name}/tokenizer.json that is no tokenizer of CLIP")
        merges = [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
        extra = {str(token.get("content")): token.get("id") for token in added if isinstance(token, dict)}
    extra = {token: number for token, number in extra.items() if token not in vocabulary}
    words = Words(vocabulary, merges, extra, _special(folder))
    _check_words(folder.name, words, known)
    return words


def _merges(path: Path) -> list[str]:
    name = f"{path.parent.name}/{path.name}"
    try:
        if not path.is_file():
            raise FolderError(f"has no {name}")
        if path.stat().st_size > VOCABULARY_BYTES:
            raise FolderError(f"has a {name} that is too long")
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"has a {name} that cannot be read ({files.one_line(error)})") from error
    lines = [line.rstrip("\r") for line in lines]
    return [line for line in (lines[1:] if lines[0].startswith("#version") else lines) if line.strip()]


def _special(folder: Path) -> dict[str, Any]:
    """The marks of a text's start and end and their like."""
    given: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            given.update(read_object(folder / name))
    if given.get("auto_map"):
        raise FolderError(f"asks for code of its own in its {folder.name} (auto_map), which is never run")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
               "pad_token": "<|endoftext|>"}
    for name in special:
        value = given.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if content is not None:
            special[name] = content
    return special


def _check_words(name: str, words: Words, known: int) -> None:
    """Raises FolderError where words or merges are missing: a tokenizer would make other tokens without a word."""
    vocabulary, special = words.vocabulary, words.special
    numbers = [*vocabulary.values(), *words.extra.values()]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers) or (
            sorted(numbers) != list(range(len(numbers)))):
        raise FolderError(f"has a {name} whose vocabulary has gaps; download it again")
    if not max(known - 64, 0.9 * known) < len(numbers) <= known:  # some pad their embeddings to a multiple of 64
        raise FolderError(f"has a {name} of {len(numbers)} words, and a text encoder that knows {known}")
    for key, token in special.items():
        if not isinstance(token, str) or (token not in vocabulary and token not in words.extra):
            raise FolderError(f"has a {name} without its {key} {shown(token, 60)}")
    made = set()
    for merge in words.merges:
        first, _, second = merge.partition(" ")
        if not (first in vocabulary and second in vocabulary and first + second in vocabulary):
            raise FolderError(f"has a {name} whose merges do not fit its vocabulary ({shown(merge, 60)})")
        made.add(first + second)
    lost = [token for token in vocabulary if token not in made and token not in special.values()
            and len(token.removesuffix("</w>")) != 1 and not token.startswith("<|")]
    if lost:
        raise FolderError(f"has a {name} without the merges of {len(lost)} of its words, {shown(lost[0], 40)} among "
                          "them; download it again")

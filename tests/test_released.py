"""The released plans against recordings of the authors' released code (tests/vectors)."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ivmixed import Schedule, released_plan, sample_iv_mixed

VECTORS = Path(__file__).parent / "vectors"
CASES = sorted(path.stem for path in VECTORS.glob("*.json"))
LOOPS = {"ad": "animatediff", "ms": "modelscope", "vc": "videocrafter"}
TOLERANCE = 1e-4


class Recording:
    """One recorded run: answers the n-th evaluation with the recorded network outputs, and checks what is asked."""

    def __init__(self, name, folder=VECTORS):
        self.about = json.loads((folder / f"{name}.json").read_text())
        self.tensors = load_file(folder / f"{name}.safetensors")
        self.schedule = Schedule.scaled_linear()
        self.calls = 0
        self.worst = 0.0
        self.expected = self.vp("initial")

    def vp(self, key):
        """(1, C, F, H, W) as recorded -> (F, C, H, W)."""
        return self.tensors[key][0].transpose(0, 1)

    def plan(self):
        about = self.about
        size = about["image_size_latent"]
        return released_plan(
            LOOPS[about["kind"]], about["num_inference_steps"], self.schedule,
            cfg_scale=about["guidance_scale"], gamma_image=about["gamma_image"], gamma_video=about["gamma_video"],
            interval=about["interval"], zz=about["zz"] or 1000, image_size=size and (size, size),
            solver="euler" if about["ordinary_scheduler"] == "DDIMScheduler" else "dpmpp_2m_sde",
        )

    def compare(self, latent, expected):
        assert latent.shape == expected.shape
        self.worst = max(self.worst, (latent - expected).abs().max().item())

    def denoiser(self, model):
        def call(x, sigma, cond_scale):
            asked, timestep, _ = self.about["calls"][self.calls]
            assert asked == model
            level = sigma[0].item()
            assert self.schedule.sigma_to_timestep(level) == pytest.approx(timestep, abs=1e-3)
            if self.expected is not None:
                size = x.shape[-2:]
                self.compare(x / (1 + level**2) ** 0.5, torch.nn.functional.interpolate(self.expected, size))
            key = f"call{self.calls:03d}"
            uncond, text = self.vp(f"{key}.uncond"), self.vp(f"{key}.text")
            self.expected = self.vp(f"{key}.after") if f"{key}.after" in self.tensors else None
            self.calls += 1
            return x - level * (uncond + cond_scale * (text - uncond))

        return call

    def noise(self, sigma, sigma_next):
        step = self.about["calls"][self.calls - 1][2]
        # recorded in VP scale, as the network sees latents: the VE noise is the same
        return self.tensors["sde_noise"][step][0].transpose(0, 1)

    def replay(self, plan):
        end = plan.moves[-1].sigma_to
        sigmas = torch.tensor([m.sigma_from for m in plan.moves if m.kind == "ordinary"] + [end], dtype=torch.float64)
        x = self.vp("initial") * (1 + float(sigmas[0])**2) ** 0.5
        x = sample_iv_mixed(self.denoiser("V"), x, sigmas, disable=True, image_model=self.denoiser("I"), plan=plan,
                            noise_sampler=self.noise)
        self.compare(x / (1 + end**2) ** 0.5, self.vp("final"))
        assert self.calls == len(self.about["calls"]) == plan.evaluations
        return self.worst


@pytest.mark.parametrize("name", CASES)
def test_recording_is_met(name):
    recording = Recording(name)
    assert recording.replay(recording.plan()) < TOLERANCE


def test_the_recordings_notice_a_wrong_loop():
    """The comparison can fail: another loop's order, a positive gamma on inversion, a carried level left out."""
    from dataclasses import replace

    def worst(change):
        recording = Recording("ad_interval2_5_n8")
        plan = recording.plan()
        return recording.replay(replace(plan, moves=tuple(map(change, plan.moves))))

    assert worst(lambda m: m) < TOLERANCE
    assert worst(lambda m: replace(m, guidance=abs(m.guidance))) > 1
    assert worst(lambda m: replace(m, guidance=m.guidance * 1.01 if m.kind == "go" else m.guidance)) > 1e-3
    assert worst(lambda m: replace(m, sigma_to=m.sigma_to * 1.01)) > 1e-3

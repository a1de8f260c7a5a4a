"""Run by the WebUI at start. The extension needs torch, tqdm and gradio, which every host has: nothing to install."""

"""What ``<lora:...>`` in a prompt does, in all hosts."""
import importlib


class ExtraNetworkLora:
    def activate(self, p, params_list):
        names, weights = [x.positional[0] for x in params_list], []
        for params in params_list:
            te = float(params.positional[1]) if len(params.positional) > 1 else 1.0
            weights.append((te, float(params.positional[2]) if len(params.positional) > 2 else te, None))
        networks = importlib.import_module("networks")
        networks.load_networks(names, *map(list, zip(*weights)) if weights else ([], [], []))
        p.extra_generation_params["Lora hashes"] = ", ".join(names)
        p.all_prompts = [prompt + " and a LoRA of the settings" if isinstance(prompt, str) else prompt
                         for prompt in p.all_prompts]

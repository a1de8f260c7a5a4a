"""From the tensors of a file to a model, for all hosts but Forge main."""
from modules_forge.sd_model import SdModel

from modules import sd_text_encoder, shared


def load_model_for_a1111(timer, checkpoint_info=None, state_dict=None):
    model = SdModel.from_tensors(state_dict)
    model.sd_checkpoint_info = checkpoint_info
    if shared.host == "reforge":
        sd_text_encoder.current_text_encoder = model.forge_objects.clip
    state_dict.clear()  # it takes out what it has read
    return model

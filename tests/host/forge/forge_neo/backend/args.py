"""What Forge Neo notes of the checkpoint that is loaded, in one place for the whole process."""


class dynamic_args:
    kontext = False
    ref_latents = []  # noqa: RUF012
    context_handler = None

    @classmethod
    def reset(cls):
        cls.ref_latents.clear()
        cls.context_handler = None

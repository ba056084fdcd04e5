"""What can be wrong with a model or a text. The service turns these into its own errors, word for word."""


class ModelError(ValueError):
    """A model that cannot be used."""


class UnsupportedModelError(ModelError):
    """A family without an adapter, or a model that needs remote code."""


class UnreadableModelError(ModelError):
    """A folder that is missing, incomplete, corrupt or that points outside itself."""


class TextError(ValueError):
    """A text that is missing, empty, not UTF-8 or too short."""

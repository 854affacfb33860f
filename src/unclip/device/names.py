"""Names of engines and data types: of these, torch's and diffusers' longer ones too. No torch."""

ENGINES = ("torch", "openvino")
"""What can compute U-Nets."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_LONGER = {
    "fp32": ("float32", "float"),
    "bf16": ("bfloat16",),
    "fp16": ("float16", "half"),
    "int8": (),
}
OTHER_NAMES = {
    prefix + name: short
    for short, names in _LONGER.items()
    for name in names
    for prefix in ("", "torch.")
}
"""Of the same types, to the name that they have here."""


def usual(name: object) -> object:
    """The name that a data type has here, if `name` is another one of it; else `name` itself."""
    return OTHER_NAMES.get(name, name) if isinstance(name, str) else name

"""Other machines' CPUs, for `monkeypatch.setattr(module, "instructions", lambda: PLAIN)`."""

import torch

from unclip.device.instructions import Instructions

_FP32 = frozenset({torch.float32})
_BOTH = _FP32 | {torch.bfloat16}
PLAIN = Instructions("AVX2", _FP32, _FP32, int8=False, matrix_units=False)
WITHOUT_BF16 = Instructions("AVX512", _FP32, _BOTH, int8=True, matrix_units=False)
WITH_BF16 = Instructions("AVX512", _BOTH, _BOTH, int8=True, matrix_units=False)
WITH_MATRIX_UNITS = Instructions("AVX512", _BOTH, _BOTH, int8=True, matrix_units=True)

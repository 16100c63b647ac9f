"""Networks that LiteRT runs, which only those install who remove people or audit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.shards.errors import UserError

F32 = NDArray[np.float32]


class Net:
    """A .tflite network on one thread (work is spread over processes). Raises UserError without LiteRT."""

    def __init__(self, data: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UserError('this needs LiteRT; run in the checkout: pip install -e ".[people]"') from None
        self._net: Any = Interpreter(model_content=data, num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._outputs = [output["index"] for output in self._net.get_output_details()]

    def __call__(self, picture: F32) -> list[F32]:
        """The outputs, in the model's order and without batch axis, for `picture` (H, W, 3)."""
        self._net.set_tensor(self._input, picture[None])
        self._net.invoke()
        return [self._net.get_tensor(index)[0] for index in self._outputs]

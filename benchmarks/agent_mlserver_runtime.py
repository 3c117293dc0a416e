"""A model of MLServer that runs an ONNX graph as the agent does: one thread, float32 rows.

Runs in MLServer's own environment; ``agent_servers.py`` names it in the model's settings.
"""

import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found]  # in an environment of its own
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
)


class OnnxModel(MLModel):  # type: ignore[misc]  # the base is not known here
    """One session; every output is answered."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype("float32")
        outputs = self._session.run(self._names, {payload.inputs[0].name: rows})
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output(name, array)
                for name, array in zip(self._names, outputs, strict=True)
            ],
        )

"""Take a foreign ONNX graph as the source: its own fp32 answers are the truth.

Accepted, with ZipMap, text labels and other types of numbers taken off or cast
(``foreign_forms.py``), are graphs of one float32 input [N, width] and, for a classification, either
labels (int64 [N]) with probabilities, or probabilities alone [N, classes]; for a regression one
output [N] or [N, 1]. Labels must already be class indexes. Of several labels: int64 [N, labels]
where it has labels, and a column of probabilities for each class of each label, or for the second
class of each where all have two.

Nobody knows what a graph from elsewhere does to a runtime, so it is never loaded here: its bytes
are checked, and whatever runs it is a child process with limits (``guarded.py``).
"""

from converters.from_file import ForeignModel
from converters.graph import parse_foreign
from converters.guarded import GuardLimits
from converters.onnx_graph import adapt_graph
from converters.source import SourceNotes
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import ModelSchema

NOTES = SourceNotes(
    kind="ONNX",
    given_as="OnnxSource of the bytes of a file",
    files=(".onnx",),
    read_by="checked byte by byte first, then run in a child process with limits only",
    keeps="the graph, in operator sets of the profile; its own fp32 answers as it was are the"
    " truth",
    cannot="operators of other domains than ai.onnx and ai.onnx.ml, external data, functions,"
    " training information, operators newer than the profile's with no older definition,"
    " several inputs, outputs beside the answer",
)


class OnnxSource(ForeignModel):
    """A graph from elsewhere, checked and held as bytes.

    Args:
        content: The ``.onnx`` bytes.
        schema: What it takes and answers.
        profile: Its threads and limits are used to run the source.
        limits: Of the child processes that run it; None takes the usual ones.

    Raises:
        InvalidRequestError: Not such a graph, or one that no runtime shall be shown.
    """

    def __init__(
        self,
        content: bytes,
        schema: ModelSchema,
        profile: DeviceProfile,
        limits: GuardLimits | None = None,
    ) -> None:
        adapt_graph(parse_foreign(content, what="the source"), schema)
        super().__init__(content, schema, profile, limits)

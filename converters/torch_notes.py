"""What PyTorch sources keep and what they cannot; apart, so that it is known without PyTorch."""

from converters.source import SourceNotes

NOTES = SourceNotes(
    kind="PyTorch",
    given_as="nn.Module and ExportedProgram (torch.export)",
    files=(".pt2",),
    read_by="checked first: plain arrays and operators of torch.ops.aten only, nothing pickled;"
    " then in a child process with limits. Files of torch.save are never read",
    keeps="the module in eval mode, its weights, image shapes (rows are packed, the graph unpacks"
    " them); a softmax is added where the module answers logits",
    cannot="several inputs or outputs, a fixed number of rows, operators without ONNX counterpart,"
    " quantized modules",
)

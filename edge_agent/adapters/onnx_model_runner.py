"""Run one package's graph with onnxruntime: the only importer of that library in serving.

The session is made from bytes, and external data is looked for where no file can be, so a graph
is its own weights or is refused; custom-op libraries are never registered, so their operators
are unknown. Threads are explicit and do not spin: the default burns a core between two requests.
The library itself is loaded with the first model, because it may be what kills the process.

Which execution provider computes is chosen in ``execution_providers.py``.
Invariants: bytes were hashed here; the graph's inputs and outputs are the schema's; one golden
row was answered in the right shape before anyone asks.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from device_profiles.providers import CPU
from edge_agent.adapters.batch_gain import measure_batch_gain
from edge_agent.adapters.execution_providers import ProviderWish, make_session
from edge_agent.adapters.golden_vectors import GoldenVectors
from edge_agent.contract import package
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.hashing import sha256_of
from edge_agent.contract.image import FIGURES, FIGURES_OUTPUT, IMAGE_INPUT
from edge_agent.contract.schema import INPUT_NAME, ModelSchema, Role, Task
from edge_agent.errors import PackageError, words_of
from edge_agent.statistics.reference import (
    ClassOutputReference,
    LabelsOutputReference,
    Reference,
    TargetsOutputReference,
    reference_hash,
)

if TYPE_CHECKING:
    import onnxruntime

_TYPE_OF_ROLE = {
    Role.LABEL: "tensor(int64)",
    Role.PROBABILITIES: "tensor(float)",
    Role.VALUE: "tensor(float)",
}
_ROLES_OF_TASK = {
    Task.CLASSIFICATION: {Role.LABEL, Role.PROBABILITIES},
    Task.REGRESSION: {Role.VALUE},
}
SessionRun = Callable[[list[str], dict[str, NDArray[np.float32]], None], list[NDArray[Any]]]
"""Names of outputs, inputs by name and no options in; the outputs in that order out."""
_LOG = logging.getLogger(__name__)
_LOG_FATAL = 4
_NO_DIRECTORY = "/dev/null"
_MEMORY_WORDS = ("bad_alloc", "allocate memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How the runtime may use the device; values of the device profile.

    Attributes:
        intra_op_threads: Threads of one request, 1 and up.
        allow_spinning: Whether idle threads burn their core to answer sooner.
        arena: Whether freed tensors stay with the process.
        providers: What computes.
    """

    intra_op_threads: int = 1
    allow_spinning: bool = False
    arena: bool = True
    providers: ProviderWish = field(default_factory=ProviderWish)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPackage:
    """The checked members of a package."""

    sha256: str
    model: bytes
    schema: ModelSchema
    golden: GoldenVectors
    reference: Reference
    reference_hash: bytes


def open_package(blob: bytes, sha256: str) -> OpenedPackage:
    """Hash the blob and read its members.

    Raises:
        PackageError: ``BLOB_HASH`` or ``PACKAGE_FORMAT``.
    """
    actual = sha256_of(blob).hex()
    if actual != sha256:
        raise PackageError(Code.BLOB_HASH, f"sha256 is {actual}, signed was {sha256}")
    try:
        members = package.unpack_members(blob)
        schema = ModelSchema.decode(members[package.SCHEMA])
        reference = Reference.decode(members[package.REFERENCE])
    except ContractError as error:
        raise PackageError(Code.PACKAGE_FORMAT, str(error)) from error
    _check_agreement(schema, reference)
    return OpenedPackage(
        sha256=sha256,
        model=members[package.MODEL],
        schema=schema,
        golden=GoldenVectors.decode(members[package.GOLDEN], schema),
        reference=reference,
        reference_hash=reference_hash(members[package.REFERENCE]),
    )


class LoadedModel:
    """A session ready to answer; ``infer`` may be called from any thread."""

    def __init__(self, opened: OpenedPackage, session: "onnxruntime.InferenceSession") -> None:
        self.sha256 = opened.sha256
        self.schema = opened.schema
        self.reference = opened.reference
        self.reference_hash = opened.reference_hash
        self.width = opened.schema.width
        self.provider = CPU
        """Execution provider that computes."""
        self.warm_up_ms = 0.0
        self.batch_gain = 1.0
        """See ``batch_gain.measure_batch_gain``."""
        self.output_names = [output.name for output in opened.schema.outputs]
        # InferenceSession.run validates its arguments anew at every call, a tenth of a small
        # model's time; they were checked once when the model was loaded. Where a runtime hides
        # its inner session otherwise, the public call serves.
        self.session_run: SessionRun = getattr(getattr(session, "_sess", None), "run", session.run)

    @classmethod
    def from_package(
        cls, blob: bytes, sha256: str, options: RuntimeOptions = RuntimeOptions()
    ) -> "LoadedModel":
        """Open a package and load it; see ``open_package`` and ``load``."""
        return cls.load(open_package(blob, sha256), options)

    @classmethod
    def load(cls, opened: OpenedPackage, options: RuntimeOptions) -> "LoadedModel":
        """Build the session, check its signature and answer one golden row.

        Raises:
            PackageError: ``SELFTEST_LOAD``, or ``SELFTEST_MEMORY`` when memory ran out.
        """
        try:
            session, served = make_session(
                opened.model, _session_options(options), options.providers
            )
        except PackageError:
            raise
        except Exception as error:  # damaged graphs raise even UnicodeDecodeError
            raise _load_error(error) from error
        _check_signature(opened.schema, session)
        model = cls(opened, session)
        model.provider = served.provider
        if served.passed_over:
            _LOG.warning("%s computes, for %s", served.provider, dict(served.passed_over))
        began = time.perf_counter()
        try:
            outputs = model.infer(opened.golden.features[:1])
        except Exception as error:
            raise _load_error(error) from error
        model.warm_up_ms = (time.perf_counter() - began) * 1e3
        _check_shapes(opened.schema, outputs)
        if opened.schema.image is not None:
            return model
        model.batch_gain = measure_batch_gain(
            lambda rows: model.session_run(model.output_names, {INPUT_NAME: rows}, None),
            opened.golden.features,
            model.warm_up_ms,
        )
        return model

    def infer(self, features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Answer rows.

        Args:
            features: float32 [rows, width], or uint8 [pictures, height, width, 3] where the
                schema has an image.

        Returns:
            One array an output tensor: ``label`` int64 [rows] and ``probabilities`` float32
            [rows, classes], or ``value`` float32 [rows]; [rows, labels] and the classes of all of
            them, or [rows, targets], where a row has several.

        Raises:
            Exception: Whatever the runtime raises.
        """
        names = self.output_names
        values = self.session_run(names, {self.schema.input_name: features}, None)
        return dict(zip(names, values, strict=True))


def _session_options(options: RuntimeOptions) -> "onnxruntime.SessionOptions":
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = max(1, options.intra_op_threads)
    session_options.inter_op_num_threads = 1
    session_options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session_options.enable_cpu_mem_arena = options.arena
    session_options.log_severity_level = _LOG_FATAL  # what goes wrong is raised, not printed
    spinning = "1" if options.allow_spinning else "0"
    session_options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    session_options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    # Given bytes, the runtime would look for external data in the working directory.
    session_options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NO_DIRECTORY
    )
    return session_options


def _load_error(error: Exception) -> PackageError:
    text = words_of(error)[:400]
    if isinstance(error, MemoryError) or any(word in text for word in _MEMORY_WORDS):
        return PackageError(Code.SELFTEST_MEMORY, f"memory ran out while loading: {text}")
    return PackageError(Code.SELFTEST_LOAD, f"the runtime does not load the graph: {text}")


def _check_agreement(schema: ModelSchema, reference: Reference) -> None:
    roles = [output.role for output in schema.outputs]
    if set(roles) != _ROLES_OF_TASK[schema.task] or len(roles) != len(set(roles)):
        raise PackageError(
            Code.PACKAGE_FORMAT,
            f"schema.json: a {schema.task} answers"
            f" {sorted(_ROLES_OF_TASK[schema.task])}, not {roles}",
        )
    names = [(output.name, str(output.role)) for output in schema.outputs]
    if any(name != role for name, role in names):
        raise PackageError(
            Code.PACKAGE_FORMAT, f"schema.json: outputs are named as their roles, not {names}"
        )
    kind, names = _name_answers(reference)
    if (kind, names) != _said_answers(schema):
        raise PackageError(
            Code.PACKAGE_FORMAT,
            f"reference.json: {kind} differ from schema.json, which has"
            f" {str(_said_answers(schema))[:160]}, not {str(names)[:160]}",
        )
    if reference.features and reference.features[-1].column >= schema.width:
        raise PackageError(
            Code.PACKAGE_FORMAT,
            f"reference.json: column {reference.features[-1].column} of {schema.width}",
        )


def _name_answers(reference: Reference) -> tuple[str, Any]:
    """Give what a reference counts: classes, names of targets, or labels with their classes."""
    output = reference.output
    if isinstance(output, ClassOutputReference):
        return "classes", output.classes
    if isinstance(output, TargetsOutputReference):
        return "targets", tuple(target.name for target in output.targets)
    if isinstance(output, LabelsOutputReference):
        return "labels", tuple((label.name, label.classes) for label in output.labels)
    return "values", ()


def _said_answers(schema: ModelSchema) -> tuple[str, Any]:
    if schema.labels:
        return "labels", tuple((label.name, label.classes) for label in schema.labels)
    if schema.task is Task.CLASSIFICATION:
        return "classes", schema.classes
    return ("targets", schema.targets) if schema.targets else ("values", ())


def _check_signature(schema: ModelSchema, session: "onnxruntime.InferenceSession") -> None:
    """Compare the graph's declared inputs and outputs with the schema."""
    inputs = [(i.name, i.type, list(i.shape)) for i in session.get_inputs()]
    if schema.image is not None:
        _check_picture_signature(schema, session)
        return
    if (
        len(inputs) != 1
        or inputs[0][:2] != (INPUT_NAME, "tensor(float)")
        or len(inputs[0][2]) != 2
        or isinstance(inputs[0][2][0], int)
        or (isinstance(inputs[0][2][1], int) and inputs[0][2][1] != schema.width)
    ):
        raise PackageError(
            Code.SELFTEST_LOAD,
            f"the graph must take {INPUT_NAME!r} float32 [rows, {schema.width}], it takes {inputs}",
        )
    outputs = {o.name: o.type for o in session.get_outputs()}
    wanted = {o.name: _TYPE_OF_ROLE[o.role] for o in schema.outputs}
    if outputs != wanted:
        raise PackageError(Code.SELFTEST_LOAD, f"the graph gives {outputs}, not {wanted}")


def _check_picture_signature(schema: ModelSchema, session: "onnxruntime.InferenceSession") -> None:
    inputs = [(i.name, i.type, len(i.shape)) for i in session.get_inputs()]
    if inputs != [(IMAGE_INPUT, "tensor(uint8)", 4)]:
        raise PackageError(
            Code.SELFTEST_LOAD,
            f"the graph must take {IMAGE_INPUT!r} uint8 [pictures, height, width, 3], it takes"
            f" {inputs}",
        )
    outputs = {o.name: o.type for o in session.get_outputs()}
    wanted = {o.name: _TYPE_OF_ROLE[o.role] for o in schema.outputs}
    wanted[FIGURES_OUTPUT] = "tensor(float)"
    if outputs != wanted or schema.columns != FIGURES:
        raise PackageError(
            Code.SELFTEST_LOAD,
            f"the graph gives {outputs} and the schema the features {schema.columns}, not {wanted}"
            f" and {FIGURES}",
        )


def _check_shapes(schema: ModelSchema, outputs: Mapping[str, NDArray[Any]]) -> None:
    for output in schema.outputs:
        columns = len(output.targets) or len(output.labels)
        if output.role is Role.PROBABILITIES:
            columns = schema.probability_columns
        wanted = (1, columns) if columns else (1,)
        if outputs[output.name].shape != wanted:
            raise PackageError(
                Code.SELFTEST_LOAD,
                f"{output.name} of one row has shape {outputs[output.name].shape}, not {wanted}",
            )
